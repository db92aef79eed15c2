"""How the tests check the annotations of the package at run time."""

from beartype import BeartypeConf, beartype

# PEP 484's numeric tower: an int may stand where a float is annotated, as for every static checker.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
