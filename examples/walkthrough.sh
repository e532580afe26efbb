#!/usr/bin/env bash
# Runs every command of docs/walkthrough.md against a running broker, showing each and its reply.
# URL and KEY say where and with which operator key; by default those of `make run` in this directory.
set -euo pipefail
cd "$(dirname "$0")/.."
commands=$(awk '/^```sh$/ { shown = 1; next } /^```$/ { shown = 0 } shown' docs/walkthrough.md)
exec bash -euo pipefail -v <<< "$commands"
