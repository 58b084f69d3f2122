"""The bill of materials of a release: CycloneDX 1.6, as JSON.

No tool writes it, since tools list the packages of an environment. Our wheels have no dependencies, and a tool does not
see the compiler and Cython, with which they are made.
"""

import hashlib
import json
import os
import tarfile
import time
import uuid


def component(kind, name, version, **more):
    return {"type": kind, "bom-ref": f"pkg:pypi/{name.lower()}@{version}", "name": name, "version": version, **more}


def metadata_of(sdist):
    """Return the fields of PKG-INFO in the source distribution."""
    with tarfile.open(sdist) as files:
        (member,) = [one for one in files.getmembers() if one.name.count("/") == 1 and one.name.endswith("/PKG-INFO")]
        head = files.extractfile(member).read().decode().split("\n\n")[0]
    return dict(line.split(": ", 1) for line in head.splitlines() if ": " in line)


def tools(listed):
    """Return the tools that the file *listed* pins, as components."""
    with open(listed) as file:
        pinned = [line.split("==") for line in file.read().splitlines() if "==" in line]
    return [
        component("application", name, version, purl=f"pkg:pypi/{name.lower()}@{version}") for name, version in pinned
    ]


def write(dist, sdist, listed, when):
    """Write the bill of all files in *dist* into *dist*. Return its path. *listed*: the file with the versions of the
    tools; *when*: the time in the bill."""
    fields = metadata_of(sdist)
    name, version = fields["Name"], fields["Version"]
    files = []
    for file in sorted(file for file in os.listdir(dist) if file.startswith(f"{name}-{version}")):
        with open(os.path.join(dist, file), "rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        files.append({"type": "file", "bom-ref": file, "name": file, "hashes": [{"alg": "SHA-256", "content": digest}]})
    made = json.dumps(files).encode()
    bill = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, hashlib.sha256(made).hexdigest())}",
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when)),
            "tools": {"components": tools(listed)},
            "component": component(
                "library",
                name,
                version,
                description=fields["Summary"],
                licenses=[{"license": {"id": fields["License-Expression"]}}],
                purl=f"pkg:pypi/{name}@{version}",
            ),
        },
        "components": [
            *files,
            {
                "type": "library",
                "bom-ref": "libxtables",
                "name": "libxtables",
                "scope": "optional",
                "description": "loaded from the system when a rule needs it; no file of the release contains it",
            },
        ],
        "dependencies": [{"ref": f"pkg:pypi/{name}@{version}", "dependsOn": ["libxtables"]}],
    }
    path = os.path.join(dist, f"{name}-{version}.cdx.json")
    with open(path, "w") as file:
        json.dump(bill, file, indent=2)
        file.write("\n")
    return path
