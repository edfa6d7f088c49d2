"""S7: secrets are not in files, logs, outputs or command lines of a sweep."""

import base64
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import yaml
from drivers import Driver, assert_whole, title
from fake_sweep import sweep_of
from fault_table import Table
from patience import PATIENCE
from real_sweep import end, ensweep, sweep_file, wait_for_epochs
from servers import Proxy, Server

pytestmark = pytest.mark.slow

NAMES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
         "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD",
         "MLFLOW_TRACKING_TOKEN", "MLFLOW_S3_ENDPOINT_URL", "PGPASSWORD", "DATABASE_URL",
         "GOOGLE_APPLICATION_CREDENTIALS")  # fmt: skip
SECRETS = {name: f"canary-{number}-{name.lower()}" for number, name in enumerate(NAMES)}
CHAT, CHAT_PATH = "http://127.0.0.1:9", "canary-of-a-chat"
"""The URL of notifications, where no server listens. Its path is a secret, which the text of a
connection error contains."""
RAY = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "canary-of-ray"}
"""Settings of a Ray that requires a token, which the sweep's processes send."""


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """The folder of Ray's sessions; a short path, because of sockets."""
    folder = Path(tempfile.mkdtemp(prefix="es", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def assert_not_written(secrets: Iterable[str], folders: Iterable[Path], texts: str) -> None:
    """Neither files, members of archives nor texts contain a secret, as plain text or in base64."""
    words = [form for word in secrets for form in (word.encode(), base64.b64encode(word.encode()))]
    pattern = re.compile(b"|".join(map(re.escape, words)))
    assert not pattern.search(texts.encode())
    num_files = 0
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        num_files += 1
        assert not pattern.search(path.read_bytes()), path
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    assert not pattern.search(archive.read(name)), (path, name)
    assert num_files > 50


@pytest.mark.promise(
    "S7",
    "secrets in the environment of a sweep with failures, Ray's token and `notify.url` in use",
    "in no byte of its folder, its output, its processes' command lines and Ray's logs",
)
@pytest.mark.rare("test_uris.py masks secrets, test_cli_app.py looks for them in errors")
def test_s7_secrets_of_the_environment_are_not_written(
    tmp_path: Path, tiny_data: Path, ray_folder: Path, table: Table
) -> None:
    sweep_of(tmp_path, tiny_data)
    faults = '{"0003": "raises", "0004": "dies", "0005": "diverges", "0006": "hangs"}'
    more = ("resources.max_failures=1", "resources.max_silence_minutes=0.05", "notify.url=$CHAT")
    given = {**SECRETS, **RAY, "CHAT": f"{CHAT}/{CHAT_PATH}", "RAY_TMPDIR": str(ray_folder)}
    driver = Driver("run", tmp_path, *more, MISDEED=faults, **given)
    driver.wait_for(driver.workers)
    titles = "\n".join(title(process) for process in driver.processes())
    text = driver.finish()
    assert len(assert_whole(tmp_path, 7)) == 7
    assert "notify.url: not sent: " in text
    secrets = [*SECRETS.values(), CHAT_PATH, RAY["RAY_AUTH_TOKEN"]]
    table.played(len(secrets))
    assert list(ray_folder.rglob("raylet.out"))
    assert_not_written(secrets, (tmp_path, ray_folder), text + titles)


@pytest.mark.promise(
    "S7",
    "a password in the tracking URI, a bearer token, Ray's token, all in use, through a sweep "
    "(tiny BERT) with a diverged trial and an outage, `sync`, `ensemble` and `export`",
    "in no byte of the sweep, the bundle, MLflow's server, the outputs and Ray's logs",
)
@pytest.mark.rare("test_uris.py masks secrets, test_cli_app.py looks for them in errors")
def test_s7_secrets_in_use_are_not_written(
    tmp_path: Path,
    tiny_encoder: Path,
    tiny_data: Path,
    ray_folder: Path,
    server: Server,
    table: Table,
) -> None:
    login, bearer = "canary-user:canary-password", "canary-of-a-bearer"
    file, storage = sweep_file(tmp_path, tiny_encoder, tiny_data), tmp_path / "runs"
    content = yaml.safe_load(file.read_text())
    content["first_trials"].append({**content["first_trials"][0], "optim.weight_decay": 8000.0})
    content["search"]["num_samples"] = 4
    file.write_text(yaml.safe_dump(content))
    with Proxy(server.port) as proxy:
        address = f"127.0.0.1:{proxy.port}"
        given = {**RAY, "RAY_TMPDIR": str(ray_folder)}
        with_login = {**given, "MLFLOW_TRACKING_URI": f"http://{login}@{address}"}
        with_bearer = {**given, "MLFLOW_TRACKING_TOKEN": bearer}
        driver = ensweep("sweep", str(file), "--name", "s", "--storage", str(storage), **with_login)
        wait_for_epochs(tmp_path, 3, driver)
        server.kill()
        texts = [driver.communicate(timeout=PATIENCE)[0]]
        assert driver.returncode == 4, texts[0]
        assert "MLflow has missed" in texts[0]
        server.start()
        for verb in ("sync", "ensemble", "export"):
            words = [verb, "s", "--storage", str(storage)]
            words += ["--output", str(tmp_path / "bundle")] * (verb == "export")
            texts.append(end(ensweep(*words, **with_login)))
            if verb != "export":
                words += ["--tracking-uri", f"http://{address}"]
                texts.append(end(ensweep(*words, **with_bearer)))
    assert base64.b64encode(login.encode()) in proxy.heard
    assert f"Bearer {bearer}".encode() in proxy.heard
    assert (tmp_path / "bundle" / "manifest.json").is_file()
    secrets = [login, login.partition(":")[2], bearer, RAY["RAY_AUTH_TOKEN"]]
    table.played(len(secrets) - 1)
    assert_not_written(secrets, (tmp_path, ray_folder), "\n".join(texts))
