"""Validates manifests against the published schemas of Kubernetes, every version from 1.29 to the newest that the package
carries. Arguments: files of YAML. Prints the versions; names what is wrong, and exits with 1 then."""

import pathlib
import sys

import kubernetes_validate
import yaml

OLDEST = (1, 29)


def versions():
    folder = pathlib.Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
    found = {tuple(map(int, path.name.split("-")[0].lstrip("v").split(".")))[:2] for path in folder.iterdir() if path.name.startswith("v")}
    return sorted(version for version in found if version >= OLDEST)


def objects(document):
    if document is None:
        return
    if document.get("kind") == "List":
        for item in document["items"]:
            yield from objects(item)
    else:
        yield document


def main():
    wrong = 0
    for file in sys.argv[1:]:
        documents = list(yaml.safe_load_all(pathlib.Path(file).read_text()))
        for thing in (thing for document in documents for thing in objects(document)):
            for version in versions():
                text = f"{version[0]}.{version[1]}"
                try:
                    kubernetes_validate.validate(thing, text, strict=True)
                except kubernetes_validate.ValidationError as error:
                    wrong += 1
                    print(f"{file}: {thing['kind']}/{thing['metadata'].get('name')}: {text}: {error.path}: {error.message}", file=sys.stderr)
    print(" ".join(f"{major}.{minor}" for major, minor in versions()))
    sys.exit(1 if wrong else 0)


main()
