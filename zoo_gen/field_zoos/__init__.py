"""Zoos that others have published, a reader a file, for `python -m zoo_gen.adopt`.

A module has `is_one(folder)`, which says whether a folder is of its kind, and `read(folder, report, track)`, which returns a
`FieldZoo`. The module's name is that of the kind, and `NEEDS` says what a folder that is none lacks.
"""
