"""maang: daily stock bars in your own lakehouse, audited before they are published."""

__version__: str


def __getattr__(name: str) -> str:
    """`__version__` is read when it is first used, because that takes longer than the other imports of `cli.process`."""
    if name != "__version__":
        raise AttributeError(name)
    from importlib.metadata import version  # noqa: PLC0415

    return version("maang-cli")
