#!/bin/sh
# Gives each alert a link to its section of runbooks.md: link-runbooks.sh https://wiki.example.org/tally
# The address is of the folder that has runbooks.md. Call it again when that moves; without an address the links are taken away.
set -eu
base=${1%/}
cd "$(dirname "$0")"
for rules in alerts.yaml ../kubernetes/components/monitoring/prometheus-rule.yaml; do
  sed -i -E '/^ *runbook_url: /d' "$rules"
  [ -n "$base" ] || continue
  # An alert's name is kept aside, in lower case as anchors are, until its annotations begin.
  sed -i -E -e '/- alert: /{h; s/.*: //; s/.*/\L&/; x}' \
    -e "/^ *annotations:\$/{G; s|^( *)annotations:\n(.*)|\1annotations:\n\1  runbook_url: $base/runbooks.md#\2|}" "$rules"
done
