"""What looks like a secret, and what only sounds like one."""

from __future__ import annotations

import time

import pytest

from stannary.formats import secrecy

SECRET_VARIABLES = [
    ("HF_TOKEN", "x1"), ("API_KEY", "abcdef"), ("WANDB_API_KEY", "0123456789abcdef"), ("DB_PASSWORD", "hunter2"),
    ("PGPASSWORD", "pg"), ("aws_secret_access_key", "wJalr/K7MDENG"), ("MY_SECRET", "s"), ("apiKey", "v"),
    ("HUGGINGFACEHUB_API_TOKEN", "v"), ("GITHUB_PAT", "v"), ("SSH_PASSPHRASE", "v"), ("GOOGLE_CREDENTIALS", "{}"),
    ("X", "hf_" + "a1B2" * 8), ("X", "sk-proj-" + "a1B2" * 8), ("X", "ghp_" + "a1B2" * 9),
    ("X", "AKIAIOSFODNN7EXAMPLE"),
    ("X", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N"), ("X", "xoxb-123456789012-abcdefghij"),
    ("X", "-----BEGIN PRIVATE KEY-----\nMIIE"), ("DATABASE_URL", "postgres://me:pa55@db.example/x"),
    ("X", "q7Zp0LxW3vRt8YkN2mBc6JdHs"), ("X", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b"),
    ("AUTH", "Bearer abcdefghijklmnop12"),
]  # fmt: skip
INNOCENT_VARIABLES = [
    ("TOKENIZERS_PARALLELISM", "false"), ("MAX_TOKENS", "4096"), ("PAD_TOKEN_ID", "0"), ("PAD_TOKEN", "<pad>"),
    ("PRIMARY_KEY", "id"), ("PYTHONHASHSEED", "0"), ("KEY_COLUMN", "user"), ("TOKEN_FILE", "tok.txt"), ("PWD", "/x"),
    ("MODEL", "meta-llama/Llama-3.1-8B-Instruct-v2-2024"), ("COMMIT_SHA", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b"),
    ("RUN", "123e4567-e89b-12d3-a456-426614174000"), ("MONKEY", "banana"), ("API_KEY", ""), ("USE_AUTH_TOKEN", "true"),
    ("ARCH", "LlamaForCausalLMWithValueHead"), ("PATH", "/usr/local/bin:/usr/bin:/bin"), ("URL", "https://a.example/x?y=1"),
    ("HF_TOKEN", "$HF_TOKEN"), ("SECRETARY", "bob"), ("WHEN", "2026-11-30T05:33:18Z"), ("KEYBOARD", "qwerty"),
    ("ENV", "sk-learn-pipelines-and-more"), ("KIND", "sk-ssh-ed25519@openssh.com"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), SECRET_VARIABLES)
def test_secrets_are_seen(name: str, value: str) -> None:
    """By name, by an issuer's shape or by randomness, and the answer does not repeat the value."""
    reason = secrecy.in_variable(name, value)
    assert reason is not None
    assert len(value) < 6 or value not in reason


@pytest.mark.parametrize(("name", "value"), INNOCENT_VARIABLES)
def test_innocent_variables_are_left_alone(name: str, value: str) -> None:
    """Names of columns, counts, switches, digests and models are no secrets."""
    assert secrecy.in_variable(name, value) is None


@pytest.mark.parametrize(
    "text",
    [
        "HF_TOKEN=abc python a.py", "export WANDB_API_KEY='k3y' && run", "python a.py --token abc", "a --api-key=abc",
        "curl -H 'Authorization: Bearer abcdefghijklmnopqrst'", "pip install https://me:pw@index.example/simple",
        "set -e\nexport DB_PASSWORD=x\n", "python a.py hf_" + "a1B2" * 8,
    ],
)  # fmt: skip
def test_secrets_in_commands(text: str) -> None:
    """A command that carries a secret is told with the line it stands on."""
    found = secrecy.in_command(text)
    assert found is not None
    assert found[0] == (2 if text.startswith("set") else 1)


@pytest.mark.parametrize(
    "text",
    [
        "python train.py --max-tokens 100 --lr 0.1", "TOKEN=$HF_TOKEN python a.py", "python a.py --key-column name",
        "a --token-file /run/token", "sort --key 2 a.txt", "for key in a b; do echo $key; done",
        "tokenizer=gpt2 python a.py", "python -c 'print(1)'", "git clone ssh://git@host.example/x",
    ],
)  # fmt: skip
def test_innocent_commands(text: str) -> None:
    """Switches that only speak of tokens and keys are no secrets."""
    assert secrecy.in_command(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "eyJa-" * 13_000,
        "sk-a-" * 13_000,
        "://a:" * 13_000,
        "-----BEGIN " * 6_000,
        "AKIA" * 16_000,
        "xoxb-" * 13_000,
        "-----BEGIN PRIVATE KEY-----\n" + " " * 59 + "!",
        ("-----BEGIN PRIVATE KEY-----" + " " * 59) * 700,
    ],
)
def test_texts_made_to_match_almost_everywhere(text: str) -> None:
    """64 KiB of nothing but beginnings of secrets are looked through in no time."""
    started = time.process_time()
    secrecy.shape_in(text)
    secrecy.in_head(text.encode())
    secrecy.in_command(text[:32_768])
    secrecy.in_variable("X", text)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    "path", [".ssh/config", "deploy/id_ed25519", "a/.env", "x/.aws/credentials", "a/huggingface/token"]
)
def test_files_named_for_secrets_are_seen(path: str) -> None:
    """What is named like a key is taken for one."""
    assert secrecy.by_path(path) is not None


@pytest.mark.parametrize("path", ["recipe.py", "data/keys.csv", "docs/passwords.md"])
def test_innocent_files_are_left_alone(path: str) -> None:
    """A word about keys is no key."""
    assert secrecy.by_path(path) is None


def test_a_raw_key_is_seen_by_its_bytes() -> None:
    """32 bytes in hex and nothing else are a key; a commit of 20 is none."""
    assert secrecy.in_head(b"0f" * 32 + b"\n") is not None
    assert secrecy.in_head(b"0f" * 20 + b"\n") is None
    assert secrecy.in_head(b"a text of some words\n" * 100) is None
