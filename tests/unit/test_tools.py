"""Skills and tool schemas."""

import json

import pytest

from coffee_boxes import Account, Browser, Coffee
from kibo import Allow, Box, Env, Secret, Service, action
from kibo.box.skills import guidance_of, parse_skill
from kibo.box.tools import guidance, split_doc, tools
from kibo.model.errors import InvalidDefinition, InvalidInput

COFFEE = Browser() + Account(customer="ada") + Coffee()


def test_openai_tools_are_functions_with_a_schema():
    opened, bought = tools(COFFEE, "openai")
    assert opened == {
        "type": "function",
        "function": {
            "name": "open",
            "description": "Open a page and return its title.",
            "parameters": {
                "type": "object",
                "properties": {"url": {"type": "string"}},
                "required": ["url"],
                "additionalProperties": False,
            },
        },
    }
    assert bought["function"]["parameters"]["properties"]["size"] == {"type": "string", "default": "small"}
    assert bought["function"]["parameters"]["required"] == ["kind"]


@pytest.mark.parametrize(("format", "key"), [("anthropic", "input_schema"), ("mcp", "inputSchema")])
def test_the_other_formats_differ_in_the_envelope_alone(format, key):
    function = tools(COFFEE, "openai")[0]["function"]
    other = COFFEE.tools(format)[0]
    assert other == {"name": "open", "description": function["description"], key: function["parameters"]}


def test_an_unknown_format_is_refused():
    with pytest.raises(InvalidInput, match="openai, anthropic, mcp"):
        tools(COFFEE, "yaml")


def test_nothing_of_how_a_box_is_made_leaks_into_its_tools():
    class Loaded(Box):
        """Serve the leak_guidance."""

        env = Env(
            base="oci:leak_image",
            apt=["leak_apt"],
            pip=["leak_pip"],
            npm=["leak_npm"],
            files={"/leak_dest": "/leak_source"},
            run=["leak_run"],
            services=[Service("leak_service", "leak_command")],
            variables={"LEAK_VARIABLE": "leak_value"},
        )
        secrets = [Secret("LEAK_SECRET", hosts=["leak.host"])]
        egress = [Allow("leak.egress")]
        token: str

        def launch(self):
            """Leak_launch."""

        @action
        def ask(self, question: str) -> str:
            """Answer a question."""

    box = Loaded(token="leak_parameter")
    for format in ("openai", "anthropic", "mcp"):
        text = json.dumps(tools(box, format)).lower()
        assert "leak" not in text
        assert __file__.lower() not in text
        assert "loaded" not in text
    assert guidance(box) == "Serve the leak_guidance."


def test_an_arguments_guidance_comes_from_the_docstring():
    class Documented(Box):
        @action
        def find(self, query: str, limit: int = 3) -> list[str]:
            """Finds pages.

            The newest come first.

            Args:
                query: What to look for,
                    in any language.
                limit: How many at most.

            Returns:
                Their titles.
            """

    (tool,) = tools(Documented(), "mcp")
    assert tool["description"] == "Finds pages.\n\nThe newest come first.\n\nReturns:\n    Their titles."
    properties = tool["inputSchema"]["properties"]
    assert properties["query"]["description"] == "What to look for, in any language."
    assert properties["limit"] == {"type": "integer", "default": 3, "description": "How many at most."}


def test_a_docstring_without_sections_is_left_alone():
    assert split_doc("Does it: now.\n\nNote this.") == ("Does it: now.\n\nNote this.", {})


def test_types_with_definitions_keep_them_and_a_field_called_title():
    import pydantic

    class Book(pydantic.BaseModel):
        title: str

    class Library(Box):
        @action
        def lend(self, book: Book, others: list[Book] = []) -> None:  # noqa: B006
            """Lend."""

    (tool,) = tools(Library(), "mcp")
    schema = tool["inputSchema"]
    assert "Book" in json.dumps(schema)
    assert '"title": {"type": "string"}' in json.dumps(schema)
    assert '"title": "' not in json.dumps(schema)


def _model(module: str, field: str) -> type:
    """A type that is called Book, as one of another module may be."""
    import pydantic

    return pydantic.create_model("Book", __module__=f"leaked_{module}", **{field: (str, ...)})


def _defined(schema: dict, reference: dict) -> list[str]:
    return list(schema["$defs"][reference["$ref"].removeprefix("#/$defs/")]["properties"])


def test_types_of_one_name_stay_apart_and_their_modules_unsaid():
    one, other = _model("one", "isbn"), _model("other", "pages")

    class Library(Box):
        @action
        def swap(self, ours: list[one], theirs: list[other], either: list[one | other]) -> None:
            """Swap."""

        @action
        def lend(self, ours: list[one], more: list[one]) -> None:
            """Lend."""

    swap, lend = (tool["inputSchema"] for tool in tools(Library(), "mcp"))
    assert "leaked" not in json.dumps(swap)
    given = swap["properties"]
    assert _defined(swap, given["ours"]["items"]) == ["isbn"]
    assert _defined(swap, given["theirs"]["items"]) == ["pages"]
    assert [_defined(swap, choice) for choice in given["either"]["items"]["anyOf"]] == [["isbn"], ["pages"]]
    assert list(lend["$defs"]) == ["Book"]


def test_a_skill_file_is_read_with_its_front_matter(tmp_path):
    path = tmp_path / "SKILL.md"
    path.write_text(
        '---\nname: browse\ndescription: >\n  Reads pages.\n  Quickly.\nlicense: "x"\n---\n\n# How\nOpen.\n'
    )

    class Skilled(Box):
        """Not this."""

        skill = str(path)

    assert guidance_of(Skilled) == "Reads pages. Quickly.\n\n# How\nOpen."
    before = Skilled().digest
    path.write_text("Other guidance.")
    assert guidance_of(Skilled) == "Other guidance."
    assert Skilled().digest != before


def test_a_skill_may_be_written_inline():
    class Skilled(Box):
        skill = "Open pages."

    assert guidance_of(Skilled) == "Open pages."


def test_a_missing_skill_file_is_an_error_that_names_it():
    class Skilled(Box):
        skill = "missing/SKILL.md"

    with pytest.raises(InvalidDefinition, match=r"missing/SKILL\.md"):
        Skilled().digest  # noqa: B018


@pytest.mark.parametrize("text", ["", "---\nname: x\n", "no front matter\n---\n"])
def test_text_without_front_matter_is_guidance_as_it_is(text):
    assert parse_skill(text) == ("", "", text.strip())
