"""Identifiers."""

import pytest

from kibo.model.ids import BranchId, InstanceId, LayerDigest


@pytest.mark.parametrize("text", ["inst_", "br_00", "inst_XY", "inst_1 ", ""])
def test_text_that_is_no_instance_id_is_refused(text):
    with pytest.raises(ValueError, match="inst_<hex>"):
        InstanceId.parse(text)


def test_an_id_is_a_string_of_its_own_type():
    branch = BranchId.new()
    assert isinstance(branch, str)
    assert branch.startswith("br_")
    assert len(branch) == len("br_") + 24


def test_a_digest_is_not_made_at_random():
    assert not hasattr(LayerDigest, "new")
    assert LayerDigest.parse("b2:" + "0" * 64)
