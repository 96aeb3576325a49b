from pathlib import Path

import pytest

from haustra.core.digests import digest_bytes, digest_file, digest_json, is_sealed, seal_json

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
"""The SHA-256 of "abc" in FIPS 180-2, appendix B.1."""


def test_bytes_and_files_have_the_sha256_of_their_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert digest_bytes(b"abc") == ABC
    assert digest_file(tmp_path / "a") == ABC


def test_json_is_digested_in_canonical_form() -> None:
    canonical = rb'{"a":[1,2.5,null],"b":"gr\u00f6\u00dfe"}'
    assert digest_json({"b": "größe", "a": [1, 2.5, None]}) == digest_bytes(canonical)


def test_the_order_of_keys_does_not_matter_and_that_of_lists_does() -> None:
    assert digest_json({"a": 1, "b": {"c": 2, "d": 3}}) == digest_json(
        {"b": {"d": 3, "c": 2}, "a": 1}
    )
    assert digest_json([1, 2]) != digest_json([2, 1])


def test_values_that_are_not_json_are_refused() -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        digest_json({"path": Path("a")})


def test_a_seal_holds_until_a_field_changes() -> None:
    sealed = seal_json({"b": 1, "a": [2]}, field="seal")
    assert list(sealed) == ["b", "a", "seal"]
    assert is_sealed(sealed, field="seal")
    assert not is_sealed(sealed | {"a": [3]}, field="seal")
    assert not is_sealed(sealed | {"c": None}, field="seal")
    assert not is_sealed({"b": 1, "a": [2]}, field="seal")
