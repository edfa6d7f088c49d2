"""Static checks of deploy/compose.yaml."""

import re
from typing import Any

import pytest
from compose import FILE, GIVEN, ROOT, VARIABLE, interpolated, written

TEXT = FILE.read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "tracking.md").read_text(encoding="utf-8")
SECRET = re.compile("PASSWORD|SECRET|ACCESS_KEY|TOKEN|KEY$")


@pytest.fixture(scope="module")
def file() -> dict[str, Any]:
    return written()


def test_references_of_services_resolve(file: dict[str, Any]) -> None:
    """Keys, conditions and references are valid in the Compose specification."""
    keys = {
        *("image", "build", "restart", "command", "environment", "volumes", "networks", "ports"),
        *("depends_on", "healthcheck", "configs", "cap_drop", "security_opt"),
    }
    conditions = {"service_healthy": "healthcheck", "service_completed_successfully": "command"}
    used = set()
    for name, service in file["services"].items():
        assert set(service) <= keys, name
        for other, how in service.get("depends_on", {}).items():
            assert conditions[how["condition"]] in file["services"][other], (name, other)
        for volume in service.get("volumes", ()):
            source, _, target = volume.partition(":")
            used.add(("volumes", source))
            assert target.startswith("/")
        used |= {("networks", network) for network in service["networks"]}
        used |= {("configs", config["source"]) for config in service.get("configs", ())}
        environment = service.get("environment", {})
        assert all(isinstance(value, str) for value in environment.values()), name
        targets = {config["target"] for config in service.get("configs", ())}
        assert {v for v in environment.values() if v.endswith(".ini")} <= targets
    declared = {(kind, name) for kind in ("volumes", "networks", "configs") for name in file[kind]}
    assert used == declared
    assert "$" not in VARIABLE.sub("", TEXT)


def test_images_are_pinned(file: dict[str, Any]) -> None:
    base = re.search(r"^FROM (\S+)$", (ROOT / "deploy" / "mlflow.Dockerfile").read_text(), re.M)
    assert base
    images = [base[1], *(service["image"] for service in file["services"].values())]
    for image in images:
        _, _, tag = image.partition(":")
        assert re.match(r"\d+\.\d+|RELEASE\.\d{4}-\d\d-\d\dT", tag), image
    pins = (ROOT / "constraints.txt").read_text()
    assert f"\nmlflow=={file['services']['mlflow']['image'].partition(':')[2]}\n" in pins


def test_variables_are_documented_and_required_ones_must_be_set() -> None:
    found = {match["name"]: match for match in VARIABLE.finditer(TEXT) if match["how"]}
    assert {match["name"] for match in VARIABLE.finditer(TEXT)} == set(found)
    rows = re.findall(r"^\| (`[^|]*) \|", PAGE, re.M)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(found)
    required = {name for name, match in found.items() if match["how"] == "?"}
    assert required == set(GIVEN)
    for name in required:
        with pytest.raises(KeyError, match=name):
            interpolated({key: value for key, value in GIVEN.items() if key != name})


def test_no_secret_is_a_literal_or_in_a_command(file: dict[str, Any]) -> None:
    secrets = [
        (name, value)
        for service in file["services"].values()
        for name, value in service.get("environment", {}).items()
        if SECRET.search(name)
    ]
    assert len(secrets) == 9
    for name, value in secrets:
        match = VARIABLE.fullmatch(value)
        assert match, name
        assert match["how"] == "?", name
    filled = interpolated(GIVEN)
    commands = [service.get("command") for service in filled["services"].values()]
    canaries = [value for value in GIVEN.values() if value.startswith("canary")]
    assert len(canaries) == len(GIVEN) - 1
    for text in (*map(str, commands), str(filled["configs"])):
        assert not [word for word in canaries if word in text]


def test_only_the_proxy_is_published_and_mlflow_requires_a_login(file: dict[str, Any]) -> None:
    services = file["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["proxy"]
    assert file["networks"]["inside"] == {"internal": True}
    outside = [name for name, service in services.items() if "outside" in service["networks"]]
    assert outside == ["proxy"]
    command = " ".join(interpolated(GIVEN)["services"]["mlflow"]["command"])
    host = GIVEN["TRACKING_HOST"]
    assert "--app-name=basic-auth" in command
    assert f"--allowed-hosts={host},{host}:* --cors-allowed-origins=https://{host}" in command
    environment = services["mlflow"]["environment"]
    sources = environment["MLFLOW_CREATE_MODEL_VERSION_SOURCE_VALIDATION_REGEX"]
    assert sources == "^mlflow-artifacts:/"
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert "tls ${TRACKING_TLS:-internal}" in file["configs"]["proxy"]["content"]


def test_other_pages_link_to_the_page() -> None:
    for page in ("cluster.md", "security.md"):
        assert "(tracking.md)" in (ROOT / "docs" / page).read_text(encoding="utf-8")
