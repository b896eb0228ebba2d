#!/bin/sh
# Install the system packages stannary uses, or say what is missing and what is lost without it.
# Never fails: everything here is optional on a machine where it cannot be had.
#   STANNARY_NO_APT=1   install nothing
set -u

loss_of() {
    case $1 in
        bubblewrap) echo "jobs fall to a weaker sandbox on a private market; a shared market's agent refuses to run" ;;
        jq) echo "docs/verify-with-openssl.sh and its test need it" ;;
        swtpm | swtpm-tools) echo "the TPM tests are skipped, and say so" ;;
    esac
}

command_of() {
    case $1 in
        bubblewrap) echo bwrap ;;
        swtpm-tools) echo swtpm_setup ;;
        *) echo "$1" ;;
    esac
}

missing=""
for package in bubblewrap jq swtpm swtpm-tools; do
    command -v "$(command_of $package)" > /dev/null 2>&1 || missing="$missing $package"
done
test -n "$missing" || exit 0

if [ "${STANNARY_NO_APT:-}" != 1 ] && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null 2>&1; then
    echo "installing system packages:$missing   (STANNARY_NO_APT=1 prevents this)"
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086  a list of packages
    if apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing > /dev/null; then
        exit 0
    fi
    echo "apt-get could not install them"
fi
echo "missing system packages; to install them yourself: apt-get install$missing"
for package in $missing; do
    echo "  $package: $(loss_of $package)"
done
exit 0
