import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh
from scipy.spatial import cKDTree

from haustra.core.errors import HaustraError, MissingExtraError
from haustra.simulator import mesh_import
from haustra.simulator.config import DatagenConfig
from haustra.simulator.mesh_import import MAX_EDGE_MM, load_mesh_tube
from haustra.simulator.noise import FloatArray
from haustra.simulator.plan import make_tube
from haustra.simulator.polyps import place_polyps
from haustra.simulator.rays import NO_FACE, RayMesh, face_normals, grid_faces, normalized
from haustra.simulator.tube import PX_PER_MM, SECTIONS, STEP_MM, TILE_PX, Tube, build_tube


@pytest.fixture(scope="module")
def true_tube() -> Tube:
    return build_tube(np.random.default_rng(0), sections=SECTIONS[:2])


@pytest.fixture(scope="module", params=["obj", "glb", "stl"])
def loaded_tube(
    request: pytest.FixtureRequest, true_tube: Tube, tmp_path_factory: pytest.TempPathFactory
) -> Tube:
    path = tmp_path_factory.mktemp("mesh") / f"colon.{request.param}"
    return load_mesh_tube(_export(true_tube.vertices_mm, true_tube.faces, path))


def _export(vertices_mm: FloatArray, faces: np.ndarray, path: Path) -> Path:
    trimesh.Trimesh(vertices_mm, faces, process=False).export(path)
    return path


def _swept(
    line_mm: FloatArray, *, radius_mm: float, num_columns: int = 36
) -> tuple[FloatArray, np.ndarray]:
    """Sweep a circle along a line [P,3] in the plane z = 0; the tube is open at both ends."""
    ahead = normalized(np.gradient(line_mm, axis=0))
    side, up = np.cross(ahead, [0.0, 0.0, 1.0]), np.array([0.0, 0.0, 1.0])
    turn = np.arange(num_columns)[:, None] * (2 * np.pi / num_columns)
    ring = np.cos(turn) * side[:, None] + np.sin(turn) * up
    vertices = line_mm[:, None] + radius_mm * ring
    faces = grid_faces(len(line_mm), num_columns=num_columns, wraps=True)
    return vertices.reshape(-1, 3), faces


def _cylinder(*, length_mm: float, radius_mm: float) -> tuple[FloatArray, np.ndarray]:
    along = np.linspace(0, length_mm, max(round(length_mm / 3), 2))
    return _swept(along[:, None] * [1.0, 0.0, 0.0], radius_mm=radius_mm)


def _texture_jumps_px(tube: Tube) -> FloatArray:
    return np.asarray(np.ptp(tube.texture_px[tube.faces], axis=1))


def _share_inward(tube: Tube) -> float:
    corners = tube.vertices_mm[tube.faces]
    normals = face_normals(tube.vertices_mm, faces=tube.faces)
    to_line = tube.centers_mm[tube.station[tube.faces[:, 0]]] - corners.mean(axis=1)
    return float((np.einsum("ij,ij->i", normals, to_line) > 0).mean())


def _same(one: Tube, other: Tube) -> bool:
    """Return whether two tubes have the same line and the same faces in any order."""
    middles = [t.vertices_mm[t.faces].mean(axis=1) for t in (one, other)]
    normals = [face_normals(t.vertices_mm, faces=t.faces) for t in (one, other)]
    apart, nearest = cKDTree(middles[0]).query(middles[1])
    return (
        one.centers_mm.shape == other.centers_mm.shape
        and np.allclose(one.centers_mm, other.centers_mm, atol=0.01)
        and apart.max() < 1e-3
        and np.allclose(normals[0][nearest], normals[1], atol=1e-3)
    )


def test_the_line_runs_through_the_middle_of_the_lumen(loaded_tube: Tube, true_tube: Tube) -> None:
    apart_mm, row = cKDTree(true_tube.centers_mm).query(loaded_tube.centers_mm)
    assert apart_mm[20:-20].max() < 3
    assert apart_mm.max() < 8
    assert (np.diff(row) >= 0).all() or (np.diff(row) <= 0).all()
    assert loaded_tube.length_mm == pytest.approx(true_tube.length_mm, abs=6)


def test_the_line_has_even_steps_and_sides_that_do_not_twist(loaded_tube: Tube) -> None:
    steps = np.diff(loaded_tube.centers_mm, axis=0)
    tangents, sides = loaded_tube.tangents, loaded_tube.sides
    assert np.linalg.norm(steps, axis=1) == pytest.approx(STEP_MM, abs=1e-3)
    assert np.linalg.norm(tangents, axis=1) == pytest.approx(1)
    assert np.linalg.norm(sides, axis=1) == pytest.approx(1)
    assert np.einsum("ij,ij->i", tangents, sides) == pytest.approx(0, abs=1e-9)
    assert (np.einsum("ij,ij->i", normalized(steps), tangents[1:]) > 0.999).all()
    # A side turns only with its tangent.
    turns = np.cross(sides[:-1], sides[1:])
    assert np.einsum("ij,ij->i", turns, tangents[1:]) == pytest.approx(0, abs=1e-3)


def test_normals_are_those_of_the_exported_wall(loaded_tube: Tube, true_tube: Tube) -> None:
    assert _share_inward(loaded_tube) > 0.99
    assert np.linalg.norm(loaded_tube.normals, axis=1) == pytest.approx(1)
    apart_mm, nearest = cKDTree(true_tube.vertices_mm).query(loaded_tube.vertices_mm)
    alike = np.einsum("ij,ij->i", true_tube.normals[nearest], loaded_tube.normals)
    assert (alike[apart_mm < 1e-3] > 0.9).mean() > 0.99


def test_vertices_are_near_their_station(loaded_tube: Tube) -> None:
    nearest_mm = cKDTree(loaded_tube.centers_mm).query(loaded_tube.vertices_mm)[0]
    station_mm = np.linalg.norm(
        loaded_tube.vertices_mm - loaded_tube.centers_mm[loaded_tube.station], axis=1
    )
    assert (station_mm - nearest_mm < 0.1).mean() > 0.99
    assert loaded_tube.station.dtype == np.int32


def test_no_texture_jumps_within_a_face(loaded_tube: Tube) -> None:
    jumps_px = _texture_jumps_px(loaded_tube)
    assert jumps_px[:, 0].max() < TILE_PX / 8
    assert jumps_px[:, 1].max() < 4 * MAX_EDGE_MM * PX_PER_MM


def test_edges_are_short_enough_for_polyps(loaded_tube: Tube) -> None:
    corners = loaded_tube.vertices_mm[loaded_tube.faces]
    edges_mm = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=-1)
    assert edges_mm.max() <= MAX_EDGE_MM


@pytest.mark.parametrize("flipped", ["all", "some"])
def test_the_orientation_of_faces_does_not_matter(flipped: str, tmp_path: Path) -> None:
    vertices, faces = _cylinder(length_mm=100, radius_mm=14)
    rng = np.random.default_rng(1)
    turned = np.ones(len(faces), dtype=bool) if flipped == "all" else rng.random(len(faces)) < 0.4
    other = np.where(turned[:, None], faces[:, ::-1], faces)
    one = load_mesh_tube(_export(vertices, faces, tmp_path / "one.stl"))
    again = load_mesh_tube(_export(vertices, other, tmp_path / "again.stl"))
    assert _share_inward(one) == 1
    assert _same(one, again)


def test_an_open_cylinder_stays_open_and_holds_polyps(tmp_path: Path) -> None:
    vertices, faces = _cylinder(length_mm=120, radius_mm=18)
    tube = load_mesh_tube(_export(vertices, faces, tmp_path / "cylinder.glb"))
    assert tube.length_mm == pytest.approx(120, abs=2 * STEP_MM)
    assert np.abs(tube.centers_mm[:, 1:]).max() < 0.2
    assert _share_inward(tube) == 1
    mesh = RayMesh(tube.vertices_mm, faces=tube.faces)
    middle = tube.centers_mm[len(tube.centers_mm) // 2]
    ends = mesh.first_hits(middle, directions=np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0]]))
    assert list(ends.face[:2]) == [NO_FACE, NO_FACE]
    assert ends.distance[2] == pytest.approx(18, abs=0.2)
    polyps = place_polyps(tube, num_polyps=2, rng=np.random.default_rng(0))
    assert len(polyps) == 2
    # One turn is one tile, and the other way is to scale.
    assert np.ptp(tube.texture_px[:, 0]) == pytest.approx(TILE_PX, rel=0.02)
    assert np.ptp(tube.texture_px[:, 1]) == pytest.approx(120 * PX_PER_MM, rel=0.02)


def test_a_closed_cylinder_has_a_texture_on_its_ends(tmp_path: Path) -> None:
    body = trimesh.creation.cylinder(radius=15, height=90, sections=32)
    for _ in range(3):
        body = body.subdivide()
    tube = load_mesh_tube(_export(body.vertices, body.faces, tmp_path / "closed.stl"))
    jumps_px = _texture_jumps_px(tube)
    normals = face_normals(tube.vertices_mm, faces=tube.faces)
    is_end = np.abs(normalized(normals)[:, 2]) > 0.99
    edges_mm = np.ptp(tube.vertices_mm[tube.faces[is_end]], axis=1).max(axis=1)
    assert is_end.sum() > 500
    assert (jumps_px[is_end].max(axis=1) > 0.7 * PX_PER_MM * edges_mm).all()
    assert jumps_px.max() < TILE_PX / 8


def test_touching_parts_of_the_colon_keep_their_own_stations(tmp_path: Path) -> None:
    # A hairpin: two straight ways whose walls are a millimeter apart, and half a turn.
    turn = np.linspace(-np.pi / 2, np.pi / 2, 24)
    bend = np.stack([100 + 15.5 * np.cos(turn), 15.5 * np.sin(turn), 0 * turn], axis=1)
    way = np.linspace(0, 100, 34)[:-1, None] * [1.0, 0, 0]
    aside = np.array([0, 15.5, 0])
    line = np.concatenate([way - aside, bend, way[::-1] + aside])
    vertices, faces = _swept(line, radius_mm=15)
    tube = load_mesh_tube(_export(vertices, faces, tmp_path / "hairpin.stl"))
    straight = tube.vertices_mm[:, 0] < 85
    sides = tube.vertices_mm[:, 1], tube.centers_mm[tube.station, 1]
    assert (np.sign(sides[0]) == np.sign(sides[1]))[straight].all()
    assert tube.length_mm == pytest.approx(200 + np.pi * 15.5, abs=12)


def test_a_small_second_part_is_left_out(tmp_path: Path) -> None:
    vertices, faces = _cylinder(length_mm=100, radius_mm=14)
    speck = trimesh.creation.box(extents=(3, 3, 3)).apply_translation([50, 80, 0])
    path = _export(
        np.concatenate([vertices, speck.vertices]),
        np.concatenate([faces, speck.faces + len(vertices)]),
        tmp_path / "specked.stl",
    )
    assert load_mesh_tube(path).vertices_mm[:, 1].max() < 20


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "colon.obj"
    for given in (path, str(path)):
        with pytest.raises(HaustraError) as caught:
            load_mesh_tube(given)
        assert str(caught.value) == f"{path} does not exist; expected a mesh file; correct the path"


def test_an_unknown_suffix_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "colon.FBX"
    path.write_bytes(b"")
    with pytest.raises(HaustraError) as caught:
        load_mesh_tube(path)
    assert str(caught.value) == (
        f"{path} has the suffix '.FBX'; expected .glb, .obj, .ply, .stl; export the mesh in one "
        "of these formats"
    )


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [("stl", "cut"), *((s, d) for s in ("glb", "ply") for d in ("empty", "text", "cut"))],
)
def test_a_damaged_file_is_reported(suffix: str, damage: str, tmp_path: Path) -> None:
    path = _export(*_cylinder(length_mm=20, radius_mm=5), tmp_path / f"colon.{suffix}")
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"not a mesh\n", "cut": whole[:-300]}[damage])
    with pytest.raises(HaustraError) as caught:
        load_mesh_tube(path)
    assert str(caught.value) == (
        f"{path} cannot be read as .{suffix}; expected a mesh; export it again"
    )


def test_a_face_with_a_missing_vertex_is_reported_as_damage(tmp_path: Path) -> None:
    path = tmp_path / "colon.obj"
    path.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n")
    with pytest.raises(HaustraError) as caught:
        load_mesh_tube(path)
    assert str(caught.value) == f"{path} cannot be read as .obj; expected a mesh; export it again"


@pytest.mark.parametrize("text", ["", "v 0 0 0\nv 1 0 0\nv 0 1 0\n", "v 1 1 1\nf 1 1 1\n"])
def test_a_mesh_without_faces_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "colon.obj"
    path.write_text(text)
    with pytest.raises(HaustraError) as caught:
        load_mesh_tube(path)
    assert str(caught.value) == (
        f"{path} has no faces; expected a mesh of triangles; export a surface, not points"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vertices_that_are_not_finite_are_reported(value: float, tmp_path: Path) -> None:
    vertices, faces = _cylinder(length_mm=100, radius_mm=14)
    vertices[[3, 5], 1] = value
    path = _export(vertices, faces, tmp_path / "colon.ply")
    with pytest.raises(HaustraError) as caught:
        load_mesh_tube(path)
    assert str(caught.value) == (
        f"{path} has 2 vertices that are not finite; expected numbers in millimeters; export the "
        "mesh again"
    )


def _plate() -> tuple[FloatArray, np.ndarray]:
    corners = np.array([[0.0, 0, 0], [80, 0, 0], [80, 60, 0], [0, 60, 0]])
    return corners, np.array([[0, 1, 2], [0, 2, 3]])


def _meters() -> tuple[FloatArray, np.ndarray]:
    vertices, faces = _cylinder(length_mm=120, radius_mm=18)
    return vertices / 1000, faces


@pytest.mark.parametrize(
    ("mesh", "found", "size"),
    [
        (_plate(), "0 mm long with 0.0 mm", "80.0 x 60.0 x 0.0 mm"),
        ((_plate()[0][:3], np.array([[0, 1, 2]])), "0 mm long with 0.0 mm", "80.0 x 60.0 x 0.0 mm"),
        (_meters(), "0 mm long with 0.0 mm", "0.1 x 0.0 x 0.0 mm"),
        (_cylinder(length_mm=50, radius_mm=9), "50 mm long with 9.0 mm", "50.0 x 18.0 x 18.0 mm"),
        (_cylinder(length_mm=80, radius_mm=3.5), "80 mm long with 3.5 mm", "80.0 x 7.0 x 7.0 mm"),
    ],
    ids=["plate", "triangle", "meters", "short", "narrow"],
)
def test_a_mesh_without_room_for_a_camera_is_refused(
    mesh: tuple[FloatArray, np.ndarray], found: str, size: str, tmp_path: Path
) -> None:
    path = _export(*mesh, tmp_path / "colon.stl")
    with pytest.raises(HaustraError) as caught:
        load_mesh_tube(path)
    assert str(caught.value) == (
        f"{path} holds no lumen that a camera can pass: the line through it is {found} free "
        f"around it, expected at least 60 mm and 4 mm; the mesh is {size}: check that its unit "
        "is the millimeter (scale one in meters by 1000)"
    )


def test_a_mesh_larger_than_a_colon_is_refused(tmp_path: Path) -> None:
    vertices, faces = _cylinder(length_mm=120, radius_mm=18)
    path = _export(vertices * 1000, faces, tmp_path / "colon.stl")
    with pytest.raises(HaustraError) as caught:
        load_mesh_tube(path)
    assert str(caught.value) == (
        f"{path} measures 120000.0 x 36000.0 x 36000.0 mm, expected the size of a colon in "
        "millimeters; scale it"
    )


def test_too_many_faces_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh_import, "MAX_FACES", 3000)
    vertices, faces = _cylinder(length_mm=100, radius_mm=14)
    path = _export(vertices, faces, tmp_path / "colon.stl")
    with pytest.raises(HaustraError) as caught:
        load_mesh_tube(path)
    assert str(caught.value) == (
        f"{path} comes to {4 * len(faces)} faces or more with edges of at most 1.5 mm, expected "
        "at most 3000; give it fewer faces or less uneven ones, or scale it if its unit is not "
        "the millimeter"
    )


def test_two_colons_in_one_file_are_refused(tmp_path: Path) -> None:
    vertices, faces = _cylinder(length_mm=100, radius_mm=14)
    path = _export(
        np.concatenate([vertices, vertices + np.array([0, 50, 0])]),
        np.concatenate([faces, faces + len(vertices)]),
        tmp_path / "colon.stl",
    )
    with pytest.raises(HaustraError) as caught:
        load_mesh_tube(path)
    assert str(caught.value) == (
        f"{path} has a second part with {len(faces)} of its {2 * len(faces)} faces, expected one "
        "colon and at most 20% of the faces in each other part; export the inner wall of the "
        "colon alone"
    )


def test_a_lumen_with_a_wall_across_is_refused(tmp_path: Path) -> None:
    vertices, faces = _cylinder(length_mm=130, radius_mm=14)
    ring = len(vertices) // 36 // 2 * 36 + np.arange(36)
    middle = vertices[ring].mean(axis=0, keepdims=True)
    fan = np.stack([ring, np.roll(ring, 1), np.full(36, len(vertices))], axis=1)
    path = _export(
        np.concatenate([vertices, middle]), np.concatenate([faces, fan]), tmp_path / "colon.stl"
    )
    with pytest.raises(HaustraError) as caught:
        load_mesh_tube(path)
    assert str(caught.value) == (
        f"{path} is closed off inside: its two largest spaces hold 31 and 30 ml, expected one "
        "lumen; open the wall between them"
    )


@pytest.mark.parametrize("package", ["trimesh", "scipy", "embreex"])
def test_a_missing_package_is_reported(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError) as caught:
        make_tube(0, config=DatagenConfig(mesh=tmp_path / "colon.obj"))
    assert str(caught.value) == (
        f"haustra datagen --mesh needs the package '{package}', which is not installed; "
        "run: pip install 'haustra[simulate]'"
    )
