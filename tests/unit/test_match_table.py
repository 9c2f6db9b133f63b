"""A match table survives its file, refuses what it cannot use, and drags in no torch."""

import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest

from detections import draw_document, draw_results
from groundup.errors import DataError, UsageError
from groundup.metrics.bootstrap import bootstrap_endpoints, check_paired, draw_weights, weighted_ap
from groundup.metrics.match_table import build_match_table, read_table, write_table


@pytest.fixture(scope="module")
def table():
    document = draw_document(1, num_images=6)
    return build_match_table(document, draw_results(document, 2), "bbox")


def test_a_table_reads_back_as_written_and_equal_tables_have_equal_bytes(table, tmp_path):
    write_table(tmp_path / "a.npz", table)
    write_table(tmp_path / "b.npz", table)
    again = read_table(tmp_path / "a.npz")
    for field in fields(table):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(table, field.name))
    assert again.truth_digest == table.truth_digest
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("length", [0, 10, 700])
def test_a_cut_off_table_is_refused_by_name(table, tmp_path, length):
    path = tmp_path / "a.npz"
    write_table(path, table)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError, match=r"a\.npz: damaged match table"):
        read_table(path)


def test_a_missing_table_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"none\.npz: match table cannot be read"):
        read_table(tmp_path / "none.npz")


def test_a_table_of_another_layout_is_refused(table, tmp_path):
    path = tmp_path / "a.npz"
    write_table(path, table)
    with np.load(path) as file:
        columns = dict(file)
    np.savez(path, **{**columns, "format": np.array(99)})
    with pytest.raises(DataError, match="layout 99"):
        read_table(path)


def test_no_results_give_an_ap_of_zero():
    table = build_match_table(draw_document(1), [], "bbox")
    values = weighted_ap(table, np.ones((table.num_images, 1), dtype=np.int32))
    assert np.nanmax(values) == 0


def test_a_category_without_instances_is_undefined_not_zero():
    document = draw_document(1)
    table = build_match_table(document, draw_results(document, 2), "bbox")
    values = weighted_ap(table, np.ones((table.num_images, 1), dtype=np.int32))
    bare = ~np.isin(np.arange(len(table.category_ids)), table.gt_categories[table.gt_counted[0]])
    np.testing.assert_array_equal(np.isnan(values[0]).all(axis=0), bare)
    assert bare.any()


def test_tables_of_different_truths_are_not_paired(table):
    other = build_match_table(draw_document(2, num_images=6), [], "bbox")
    with pytest.raises(UsageError, match="cannot be paired"):
        check_paired([table, other])


def test_weights_of_other_images_are_refused(table):
    with pytest.raises(UsageError, match="weights of 9 images"):
        bootstrap_endpoints([table], draw_weights(9, 3, seed=0), ["AP"])


def test_an_area_range_that_is_not_there_is_refused():
    document = draw_document(1)
    table = build_match_table(document, draw_results(document, 2), "keypoints")
    with pytest.raises(UsageError, match="'small'"):
        weighted_ap(table, np.ones((table.num_images, 1), dtype=np.int32), "small")


def test_chunks_and_threads_change_nothing(table):
    weights = draw_weights(table.num_images, 300, seed=0)
    whole = weighted_ap(table, weights)
    parts = np.concatenate([weighted_ap(table, part) for part in np.array_split(weights, 7, axis=1)])
    np.testing.assert_array_equal(whole, parts)
    one = bootstrap_endpoints([table, table], weights, ["AP", "APs"], num_threads=1)
    two = bootstrap_endpoints([table, table], weights, ["AP", "APs"], num_threads=2)
    for endpoint in one:
        np.testing.assert_array_equal(one[endpoint].replicates, two[endpoint].replicates)


def test_weights_draw_as_many_images_as_there_are_and_repeat_by_seed():
    weights = draw_weights(50, 40, seed=3)
    assert (weights.sum(axis=0) == 50).all()
    np.testing.assert_array_equal(weights, draw_weights(50, 40, seed=3))
    assert (weights != draw_weights(50, 40, seed=4)).any()


@pytest.mark.parametrize("module", ["groundup.study.compare", "groundup.metrics.match_table"])
def test_statistics_need_no_torch(module):
    code = f"import sys, {module}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
