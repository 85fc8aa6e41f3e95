#!/bin/sh
# What must be on the machine before anything is built: Rust and Go by hand, the rest by the package manager.
# Prints nothing when all is there. Names each thing that it installs and each that it cannot.
set -eu

missing_packages=
need() { # command package
    command -v "$1" >/dev/null 2>&1 || missing_packages="$missing_packages $2"
}

need cc gcc
need git git
need ip iproute2
need nsenter util-linux
need sysctl procps
need modprobe kmod
need dpkg-deb dpkg
need mount mount
# What compiles the tap programs: clang under any of its names, and libbpf's headers.
command -v clang >/dev/null 2>&1 || command -v clang-14 >/dev/null 2>&1 || [ -n "${CLANG:-}" ] || need clang clang
[ -e /usr/include/bpf/bpf_helpers.h ] || missing_packages="$missing_packages libbpf-dev"
[ -e /usr/include/linux/bpf.h ] || missing_packages="$missing_packages linux-libc-dev"

[ "$(id -u)" = 0 ] || { echo "prereq: run as root: the suites make network namespaces, mounts and cgroups" >&2; exit 1; }

for tool in cargo go; do
    command -v "$tool" >/dev/null 2>&1 || {
        echo "prereq: '$tool' is not on PATH: install Rust 1.95 or newer and Go 1.26 or newer first" >&2
        exit 1
    }
done

if [ -n "$missing_packages" ]; then
    command -v apt-get >/dev/null 2>&1 || {
        echo "prereq: missing$missing_packages, and there is no apt-get to install them with" >&2
        exit 1
    }
    echo "prereq: installing$missing_packages"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -q update
    # Unquoted on purpose: one word per package.
    # shellcheck disable=SC2086
    apt-get -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 install $missing_packages
fi
