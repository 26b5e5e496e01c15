"""JupyterHub's server for one learner, without the hub's database: python -P -m helpers.serve.singleuser.

Only the hub uses its database, but JupyterHub imports SQLAlchemy in each learner's server too, which takes 30 MB.  This
module puts empty stand-ins in its place.  If they are not enough for your version of JupyterHub, the server does not
start; then use JupyterHub's own command, jupyterhub-singleuser.
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
