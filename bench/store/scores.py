"""Per-image scores in Parquet files, one per append, and the selection of the scores of the present edits."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.edit import EditRecord, ScoreRecord
from bench.store.errors import StoreError, writing
from bench.store.folder import RunFolder

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

SCORE_COLUMNS: tuple[str, ...] = (
    "protocol",
    "protocol_version",
    "method",
    "case",
    "seed",
    "edit",
    "metric",
    "metric_version",
    "value",
    "reason",
)
"""Columns of ``RunStore.scores``. ``method`` is a digest. ``edit`` is the SHA-256 of the PNG that was scored, empty
where there was none. ``value`` is float64, NaN where ``reason`` says why."""

EDIT_KEY = ["protocol", "protocol_version", "method", "case", "seed"]
# One value counts for each of these keys.
SCORE_KEY = [*EDIT_KEY, "metric"]
# Number of files from which an append merges them into one.
_MANY_FILES = 64


def score_frame(scores: Sequence[ScoreRecord]) -> pd.DataFrame:
    """Score records as a data frame with the columns of ``SCORE_COLUMNS``."""
    import pandas as pd

    rows = [
        {
            "protocol": score.key.protocol,
            "protocol_version": score.key.protocol_version,
            "method": score.key.method,
            "case": score.key.case,
            "seed": score.key.seed,
            "edit": score.edit,
            "metric": score.metric,
            "metric_version": score.metric_version,
            "value": score.value,
            "reason": score.reason,
        }
        for score in scores
    ]
    return pd.DataFrame.from_records(rows, columns=list(SCORE_COLUMNS))


class ScoreFiles:
    """The files ``scores/part-NNNNNN.parquet`` of a run folder. The greatest number is the newest."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def append(self, frame: pd.DataFrame) -> None:
        """Writes one file. Raises :class:`StoreError` where a column is missing."""
        import pandas as pd

        missing = [column for column in SCORE_COLUMNS if column not in frame.columns and column != "edit"]
        if missing:
            raise StoreError(f"{self._folder.path}: scores without {', '.join(missing)}. Give every column.")
        # An empty file would have to be read every time.
        if len(frame) == 0:
            return

        # Merge with the stored files where there are many, because reading hundreds of small files is slow.
        self._folder.lock()
        frame = _typed(frame)
        files = self._files()
        merging = len(files) >= _MANY_FILES
        if merging:
            # The merged file has the greatest number, so its values count. The old files are deleted only after it
            # is written: a kill loses nothing.
            frame = pd.concat([*(_read(file) for file in files), frame], ignore_index=True)
            frame = frame.drop_duplicates([*SCORE_KEY, "edit"], keep="last")

        # Write the new file.
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False, compression="zstd")
        number = 1 + max((_number(file) for file in files), default=0)
        self._folder.write_file(f"scores/part-{number:06d}.parquet", buffer.getvalue(), "scores")

        # Delete the merged ones.
        if merging:
            with writing(self._folder.path, "merge score files"):
                for file in files:
                    file.unlink()
                    self._folder.write_digest(f"scores/{file.name}", None)

    def read(self) -> pd.DataFrame:
        """All stored scores, oldest first."""
        import pandas as pd

        frames = [_read(file) for file in self._files()]
        if not frames:
            return _typed(pd.DataFrame(columns=list(SCORE_COLUMNS)))
        return pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]

    def metrics(self) -> set[tuple[str, str]]:
        """(protocol, metric) of all stored scores."""
        import pandas as pd

        pairs: set[tuple[str, str]] = set()
        for file in self._files():
            # Parquet reads two columns without decoding the others.
            frame = pd.read_parquet(file, columns=["protocol", "metric"]).drop_duplicates()
            pairs |= set(frame.itertuples(index=False, name=None))
        return pairs

    def _files(self) -> list[Path]:
        return sorted((self._folder.path / "scores").glob("part-*.parquet"), key=_number)


def of_present_edits(frame: pd.DataFrame, attempts: Iterable[EditRecord], *, stale: bool) -> pd.DataFrame:
    """The last score of each key and metric whose ``edit`` is that of the key's last record, or whose key has none.

    With ``stale``, other scores count where there is no such one. Scores of earlier versions do not name their image.
    If the log has only one image for their key, they count for it. If it has several, the image is unknown, and the
    scores are left out.
    """
    import numpy as np
    import pandas as pd

    # SHA-256 of each key's present image, and of its only image so far ("several" where there were more).
    present: dict[tuple[str, str, str, str, int], str] = {}
    sole: dict[tuple[str, str, str, str, int], str] = {}
    for record in attempts:
        key = record.key
        row = key.protocol, key.protocol_version, key.method, key.case, key.seed
        image = present[row] = record.sha256 or ""
        first = sole.setdefault(row, image)
        if image and first != image:
            sole[row] = image if not first else "several"
    rows = [(*row, image, sole[row]) for row, image in present.items()]
    log = pd.DataFrame(rows, columns=[*EDIT_KEY, "present", "sole"]).astype({"seed": "int64"})
    texts = [name for name in log.columns if name != "seed"]
    log = log.astype(dict.fromkeys(texts, "string"))

    # The line of each score's key in the log, -1 where it has none. Integers instead of texts: a run may have
    # millions of scores.
    keys, log_keys = _codes([frame[EDIT_KEY], log[EDIT_KEY]])
    line_of_key = np.full(max(keys.max(initial=-1), log_keys.max(initial=-1)) + 1, -1)
    line_of_key[log_keys] = np.arange(len(log))
    line = line_of_key[keys]
    in_log = line >= 0

    # A score that does not name its image counts for the only image of its key.
    unnamed = frame["edit"].isna().to_numpy() & in_log
    if unnamed.any():
        edit = frame["edit"].to_numpy(dtype=object, na_value=None)
        edit[unnamed] = log["sole"].to_numpy(dtype=object)[line[unnamed]]
        frame = frame.assign(edit=pd.array(edit, dtype="string"))
    edits, images = _codes([frame[["edit"]], log[["present"]].set_axis(["edit"], axis=1)])
    is_current = ~in_log
    is_current[in_log] = edits[in_log] == images[line[in_log]]

    # Stale scores come first, so that the last score of a key is that of the present image, if it has one.
    current = np.flatnonzero(is_current)
    order = np.concatenate([np.flatnonzero(~is_current), current]) if stale else current
    (metrics,) = _codes([frame[["metric"]]])
    of_metric = keys * (metrics.max(initial=0) + 1) + metrics
    last = ~pd.Series(of_metric[order]).duplicated(keep="last").to_numpy()
    # Mostly every score is the only one of its key, and nothing is copied.
    if len(current) == len(frame) and last.all():
        return frame
    return frame.iloc[order[last]].reset_index(drop=True)


def _codes(frames: Sequence[pd.DataFrame]) -> list[NDArray[np.int64]]:
    """One integer per row of each frame. Rows that are equal in all columns have equal ones, also in other frames."""
    import numpy as np
    import pandas as pd

    codes = np.zeros(sum(map(len, frames)), dtype=np.int64)
    for column in frames[0].columns:
        values = pd.concat([frame[column] for frame in frames], ignore_index=True)
        numbers, names = pd.factorize(values, use_na_sentinel=False)
        # Numbered anew after each column, so that the integers stay below the number of rows.
        codes, _ = pd.factorize(codes * len(names) + numbers)
    return np.split(codes, np.cumsum([len(frame) for frame in frames])[:-1])


def _number(path: Path) -> int:
    # By number and not by name: part-1000000 comes after part-999999.
    match = re.fullmatch(r"part-(\d+)\.parquet", path.name)
    return int(match[1]) if match else 0


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        return _typed(pd.read_parquet(path))
    except Exception as error:
        # pyarrow raises many kinds of errors for a broken file.
        raise StoreError(f"{path}: cannot be read ({error}). Delete it, and score again.") from error


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns of ``SCORE_COLUMNS`` with their types. NaN without a reason gets one."""
    if "edit" not in frame.columns:
        frame = frame.assign(edit=None)
    frame = frame[list(SCORE_COLUMNS)].astype({"seed": "int64", "value": "float64"})
    unexplained = frame["value"].isna() & frame["reason"].isna()
    # Text, also where every reason is None: else the column's type would depend on its values.
    frame["reason"] = frame["reason"].astype("string").mask(unexplained, "the metric gave NaN")
    for column in ("protocol", "protocol_version", "method", "case", "edit", "metric", "metric_version"):
        frame[column] = frame[column].astype("string")
    return frame
