"""deploy/kubectl: the chart as plain manifests, for `kubectl apply -k`.

    python -m tests.kubernetes.manifests

writes them anew; a test fails while they are not what the chart makes of the values.yaml there.
"""

from __future__ import annotations

import sys
from typing import Final

import yaml

from tests.kubernetes import charts

FOLDER: Final = charts.ROOT / "deploy" / "kubectl"
NAMESPACE: Final = "pocketkv"
_HEAD: Final = (
    "# Made by `make manifests` from deploy/helm/pocketkv and values.yaml; do not edit.\n"
)


def made() -> dict[str, str]:
    """The generated files, by name."""
    values = yaml.safe_load((FOLDER / "values.yaml").read_text(encoding="utf-8"))
    text = charts.render_text(values, namespace=NAMESPACE)
    kept = [one for one in charts.parse(text) if not _is_hook(one)]
    # Helm is not what applies them.
    for one in kept:
        labels = one["metadata"]["labels"]
        labels["app.kubernetes.io/managed-by"] = "kustomize"
        labels.pop("helm.sh/chart")
    crd = (charts.CHART / "crds" / "pocketjobs.yaml").read_text(encoding="utf-8")
    files = {"pocketjobs.yaml": _HEAD + crd}
    for component in ("controller", "router", "storage"):
        own = [one for one in kept if _component(one) == component]
        files[f"{component}.yaml"] = _HEAD + yaml.safe_dump_all(own, sort_keys=False, width=100)
    return files


def _component(resource: charts.Resource) -> str:
    return str(resource["metadata"]["labels"]["app.kubernetes.io/component"])


def _is_hook(resource: charts.Resource) -> bool:
    return "helm.sh/hook" in resource["metadata"].get("annotations", {})


def main() -> int:
    for name, text in made().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
