"""What the site of docs/mkdocs.yml needs besides its options: a hook and an extension."""

from pathlib import Path

import griffe
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
SHOWN = ("*.md", "LICENSE", "docs/**/*.md", "docs/*.png", "docs/*.ipynb", "docs/studies/*/*.jsonl")


def on_files(files, config):
    """Give the site the files of the repository, in the same places: links work in both."""
    theme = [file for file in files if file.src_dir != config.docs_dir]
    names = sorted({path for pattern in SHOWN for path in ROOT.glob(pattern)})
    return Files(
        theme
        + [
            File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path))
            for path in names
        ]
    )


class Docstrings(griffe.Extension):
    """Small differences between what we write and what mkdocstrings shows."""

    def on_object(self, *, obj, **_):
        """Name the section as the parser knows it, by its plural."""
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")

    def on_class_members(self, *, cls, **_):
        """Leave out what Flax calls, not the user."""
        cls.members.pop("setup", None)
