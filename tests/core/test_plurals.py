from haustra.core.plurals import counted


def test_one_thing_is_singular() -> None:
    assert [counted(n, "image") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert [counted(n, "box") for n in (0, 1, 2)] == ["0 boxes", "1 box", "2 boxes"]
