"""Double precision is reached by `devices.double` alone, but where tensors are on the CPU anyway."""

import re

from tests.support.places import ROOT

# Files whose tensors of double precision are on the CPU, or on a device that is known to have it.
ELSEWHERE = {
    "augment/color.py": "parameters of views, before they are sent",
    "augment/crops.py": "parameters of views",
    "augment/files.py": "weights of a worker's resize",
    "augment/geometry.py": "boxes of views",
    "cluster/jaccard.py": "copied to the CPU before",
    "cluster/kmeans.py": "rows of the CPU, as its docstring says",
    "cluster/neighbours.py": "all is brought to the `double_device` at first",
    "data/labelled.py": "numbers of images",
    "data/shapes.py": "a worker's picture",
    "devices/double.py": "here it is",
    "evaluation/confusion.py": "beside what `to_double` gave",
    "evaluation/retrieval.py": "all is brought to the `double_device` at first",
    "export/check.py": "what is exported is on the CPU",
    "losses/pairs.py": "the rounding of double precision, a number",
    "methods/spcl.py": "the threshold, which stays on the CPU; figures on the `double_device`",
    "models/channels.py": "weights of a file",
    "monitor/health.py": "copied to the CPU before",
    "randomness.py": "words of the `double_device`",
    "report/embedding_map.py": "features, which `extract` brings to the CPU",
    "report/figures.py": "features, which `extract` brings to the CPU",
    "search/diverse.py": "copied to the CPU before",
    "search/duplicates.py": "pairs, which are on the CPU",
    "search/rows.py": "copied to the CPU before",
    "storage/tensor_file.py": "a name in a file",
}


def test_nothing_else_asks_a_device_for_double_precision() -> None:
    package = ROOT / "selfsup"
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(r"\.double\(\)|torch\.(float64|double)\b", path.read_text())
    }
    told = f"bring tensors there by devices.double.to_double, or say in {__name__} why they are on the CPU"
    assert found <= ELSEWHERE.keys(), f"{sorted(found - ELSEWHERE.keys())}: {told}"
    assert found >= ELSEWHERE.keys(), f"{sorted(ELSEWHERE.keys() - found)}: no double precision there any more"
