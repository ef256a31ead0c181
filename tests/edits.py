"""Random edits of a small tree, as data, for property tests."""

from hypothesis import strategies as st

NAMES = ["a", "b", "c", "caf\u00e9", "A", "bad\udcff", "new\nline"]
names = st.sampled_from(NAMES[:3]) | st.sampled_from(NAMES)
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
texts = st.sampled_from(
    [
        "",
        "one\n",
        "two\n",
        "1\n2\n3\n4\n5\n",
        "0\n2\n3\n4\n5\n",
        "1\n2\n3\n4\n6\n",
        "1\n2\nx\n4\n5\n",
        "bin\0",
    ]
)
edits = st.one_of(
    st.tuples(st.just("write"), paths, texts),
    st.tuples(st.just("write"), paths, texts),
    st.tuples(st.just("mkdir"), paths, st.none()),
    st.tuples(st.just("mkdir"), paths, st.none()),
    st.tuples(st.just("remove"), paths, st.none()),
    st.tuples(st.sampled_from(["todir", "tofile", "setxattr", "sparse"]), paths, st.sampled_from(["x", "y"])),
    st.tuples(st.sampled_from(["empty", "rewrite", "fifo"]), paths, st.none()),
    st.tuples(st.just("symlink"), paths, st.sampled_from(["a", "nowhere", "/etc"])),
    st.tuples(st.sampled_from(["link", "rename"]), paths, paths),
    st.tuples(st.just("chmod"), paths, st.sampled_from([0o600, 0o755, 0o700, 0o4711])),
).map(list)


def series(size: int) -> st.SearchStrategy[list[list[object]]]:
    """A list of edits."""
    return st.lists(edits, max_size=size)


#: A tree that has something to change.
START = [
    ["mkdir", "a", None], ["mkdir", "a/a", None], ["mkdir", "b", None], ["write", "a/b", "1\n2\n3\n4\n5\n"],
    ["write", "a/a/a", "one\n"], ["write", "a/a/c", "1\n2\n3\n4\n5\n"], ["write", "c", "1\n2\n3\n4\n5\n"],
    ["write", "b/a", "bin\0"],
    ["symlink", "b/b", "a"], ["link", "b/c", "c"],
]  # fmt: skip
