"""Whether a query has a match, and the message if none has."""

from __future__ import annotations

from pathlib import Path

import pytest

from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.data.scorable import check_scorable, empty_test_splits, unmatched_queries
from pivl_distill.errors import PivlError

Labels = list[tuple[int, int | None]]


def dataset_of(query: Labels, gallery: Labels) -> ReIDDataset:
    splits = (
        tuple(Record(Path(f"/data/{pid}_{camid}.jpg"), pid, camid) for pid, camid in labels)
        for labels in ([(1, 0)], query, gallery)
    )
    return ReIDDataset("planted", Path("/data"), *splits)


def test_queries_match_another_camera_only() -> None:
    dataset = dataset_of([(2, 0), (3, 0), (4, 0)], [(2, 0), (2, 1), (3, 0)])
    assert [record.pid for record in unmatched_queries(dataset)] == [3, 4]
    check_scorable(dataset, "")


def test_without_cameras_every_image_of_the_person_matches() -> None:
    dataset = dataset_of([(2, None), (3, None)], [(2, None)])
    assert [record.pid for record in unmatched_queries(dataset)] == [3]


@pytest.mark.parametrize(
    ("query", "gallery", "reason"),
    [
        ([], [(2, 1)], "its query has no images"),
        ([(2, 1)], [], "its gallery has no images"),
        ([], [], "its query and gallery have no images"),
        ([(2, 0)], [(2, 0)], "from one camera, so no query has a match"),
        ([(2, 0)], [(3, 1)], "no query has its person in the gallery under another camera"),
        ([(2, None)], [(3, None)], "no query has its person in the gallery. "),
    ],
)
def test_reason_and_remedy_are_named(query: Labels, gallery: Labels, reason: str) -> None:
    dataset = dataset_of(query, gallery)
    assert empty_test_splits(dataset) == [
        name for name, split in (("query", query), ("gallery", gallery)) if not split
    ]
    with pytest.raises(PivlError) as refused:
        check_scorable(dataset, "Do something.")
    message = str(refused.value)
    assert message.startswith("Nothing can be measured on planted in /data: ")
    assert reason in message
    assert message.endswith(" Do something.")
