"""Whether two files of YAML say the same to a reader who is not ours."""

import sys

import yaml


def read(file):
    with open(file, encoding="utf-8") as text:
        return [document for document in yaml.safe_load_all(text) if document is not None]


first, second = read(sys.argv[1]), read(sys.argv[2])
if first != second:
    sys.exit(f"{first}\n\n{second}")
