"""``python -m methods.zoo``: writes the manifest of the embedded checkpoints again, after a training."""

from methods.zoo.manifest import manifest_path, write_manifest

if __name__ == "__main__":
    written = write_manifest()
    total = sum(line["bytes"] for line in written.values())
    print(f"{manifest_path()}: {len(written)} files, {total:,} bytes")  # noqa: T201
