#!/bin/sh
# Gives each alert a link to its section of runbooks.md: link-runbooks.sh https://wiki.example.org/tally
# The address is of the folder that has runbooks.md. Call it again when that moves; with '' the links are taken away.
set -eu
[ $# = 1 ] || { echo "link-runbooks.sh ADDRESS, or '' to take the links away" >&2; exit 2; }
base=${1%/}
# Nothing that the shell, sed or YAML reads otherwise: a link is never quoted.
if [ -n "$base" ] && ! printf '%s' "$base" | tr '\n' ' ' | grep -Eqx 'https?://[A-Za-z0-9._~:/@%+=,-]*[A-Za-z0-9._~/@%+=,-]'; then
  echo "$base: expected http://… or https://…, of letters, digits and ._~:/@%+=,-" >&2
  exit 2
fi
cd "$(dirname "$0")"
for rules in alerts.yaml ../kubernetes/components/monitoring/prometheus-rule.yaml; do
  sed -i -E '/^ *runbook_url: /d' "$rules"
  [ -n "$base" ] || continue
  # An alert's name is kept aside, in lower case as anchors are, until its annotations begin.
  sed -i -E -e '/- alert: /{h; s/.*: //; s/.*/\L&/; x}' \
    -e "/^ *annotations:\$/{G; s|^( *)annotations:\n(.*)|\1annotations:\n\1  runbook_url: $base/runbooks.md#\2|}" "$rules"
done
