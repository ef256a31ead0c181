"""What of the host's package-manager settings reaches a build step, and what never does."""

from pathlib import Path

import pytest

from kibo.runtime.images.settings import Settings, without_credentials

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    (tmp_path / "home/.config/pip").mkdir(parents=True)
    (tmp_path / "stage").mkdir()
    return Settings(tmp_path / "stage")


def shown(settings: Settings, target: str) -> str:
    return next(bind.source for bind in settings.binds if bind.target == target).read_text()


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("https://user:secret@mirror.example/simple", "https://mirror.example/simple"),
        ("deb [arch=amd64] https://token@mirror.example/debian stable main",
         "deb [arch=amd64] https://mirror.example/debian stable main"),
        ("https://mirror.example/a@b", "https://mirror.example/a@b"),
        ("mail me@mirror.example", "mail me@mirror.example"),
    ],
)  # fmt: skip
def test_addresses_lose_their_users_and_passwords(text: str, clean: str) -> None:
    assert without_credentials(text) == clean


def test_pip_settings_arrive_without_credentials(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = "[global]\nindex-url = https://me:hunter2@mirror.example/simple\ntimeout = 7\n"
    (tmp_path / "home/.config/pip/pip.conf").write_text(conf)
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://me:hunter2@extra.example/simple")
    monkeypatch.setenv("PIP_TARGET", "/somewhere/else")
    settings.add_pip()
    text = shown(settings, "/run/kibo/pip.conf")
    assert "https://mirror.example/simple" in text
    assert "timeout = 7" in text
    assert settings.variables["PIP_EXTRA_INDEX_URL"] == "https://extra.example/simple"
    assert "hunter2" not in text + repr(settings.variables)
    assert "PIP_TARGET" not in settings.variables


def test_node_trusts_what_the_host_trusts_unless_it_is_told_otherwise(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NODE_EXTRA_CA_CERTS", raising=False)
    settings.add_network()
    place = settings.variables["NODE_EXTRA_CA_CERTS"]
    assert [str(bind.source) for bind in settings.binds if bind.target == place] == [BUNDLE]


def test_a_local_package_directory_is_shown_and_a_top_level_one_is_not(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", f"{wheels} /usr")
    settings.add_pip()
    targets = [bind.target for bind in settings.binds]
    assert str(wheels) in targets
    assert "/usr" not in targets


def test_npm_settings_arrive_without_tokens(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home/.npmrc").write_text(
        "registry=https://u:p@mirror.example/\n//mirror.example/:_authToken=hunter2\n_auth=hunter2\nstrict-ssl=true\n"
    )
    monkeypatch.setenv("NPM_CONFIG__AUTH", "hunter2")
    settings.add_npm()
    text = shown(settings, "/run/kibo/npmrc")
    assert "registry=https://mirror.example/" in text
    assert "strict-ssl=true" in text
    assert "hunter2" not in text + repr(settings.variables)


def test_no_other_variable_of_the_host_reaches_a_step(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("https_proxy", "http://u:p@proxy.example:3128")
    settings.add_network()
    assert settings.variables["https_proxy"] == "http://proxy.example:3128"
    assert "hunter2" not in repr(settings.variables)
