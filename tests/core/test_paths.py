from dataclasses import dataclass
from pathlib import Path

from haustra.core.paths import convert_paths


@dataclass(frozen=True, kw_only=True)
class _Settings:
    required: Path
    optional: Path | None = None
    pair: tuple[Path, Path] | None = None
    place: str | Path = "s3://bucket/folder"
    number: int = 1

    def __post_init__(self) -> None:
        convert_paths(self)


def test_text_becomes_a_path_where_the_setting_is_one() -> None:
    settings = _Settings(required="a.bin", optional="b", pair=("c", "d"))  # type: ignore[arg-type]
    assert settings.required == Path("a.bin")
    assert settings.optional == Path("b")
    assert settings.pair == (Path("c"), Path("d"))


def test_a_url_stays_text() -> None:
    assert _Settings(required=Path("a")).place == "s3://bucket/folder"
