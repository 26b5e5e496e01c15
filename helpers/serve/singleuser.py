"""JupyterHub's server for one learner, without the hub's database: python -m helpers.serve.singleuser.

Only the hub opens the database, but JupyterHub imports its library in each server too, 30 MB.  Here the library's names
are empty.  A JupyterHub that needs more of them does not start so; its own command is jupyterhub-singleuser.
"""

import sys
from types import ModuleType


class Empty(ModuleType):
    __path__ = ()

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Exception,), {})


if __name__ == "__main__":
    for library in ("jupyterhub.orm", "sqlalchemy", "sqlalchemy.exc", "sqlalchemy.orm"):
        sys.modules[library] = Empty(library)
    from jupyterhub.singleuser import main

    main()
