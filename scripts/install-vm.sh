#!/bin/sh
# Install what `make e2e-vm` boots a measured guest with, and fetch the guest's kernel; or name what is missing and fail.
#   STANNARY_NO_APT=1         install and fetch nothing
#   STANNARY_VM_KERNEL=FILE   boot this kernel instead of the distribution's
# The kernel is unpacked into .vm/, not installed: this machine's own boot is left as it is.
set -eu

cache=.vm
install="apt-get install -y -qq --no-install-recommends"

# package and the file that shows that it is there
needed="qemu-system-x86 /usr/bin/qemu-system-x86_64
ovmf /usr/share/OVMF/OVMF_CODE_4M.secboot.fd
swtpm /usr/bin/swtpm
swtpm-tools /usr/bin/swtpm_setup
sbsigntool /usr/bin/sbsign
mtools /usr/bin/mcopy
systemd-boot-efi /usr/lib/systemd/boot/efi/linuxx64.efi.stub
busybox-static /bin/busybox
cpio /usr/bin/cpio
binutils /usr/bin/objcopy
openssl /usr/bin/openssl"

missing_packages() {
    echo "$needed" | while read -r package shown; do
        test -e "$shown" || printf ' %s' "$package"
    done
}

kernel_file() {
    if [ -n "${STANNARY_VM_KERNEL:-}" ]; then
        test ! -f "$STANNARY_VM_KERNEL" || echo "$STANNARY_VM_KERNEL"
        return
    fi
    for file in $cache/boot/vmlinuz-*; do
        test ! -f "$file" || echo "$file"
    done | sort -V | tail -n 1
}

# The newest cloud kernel by what the distribution's own metapackage names: TPM and EFI drivers are built into it.
kernel_package() {
    for meta in linux-image-cloud-amd64 linux-image-virtual; do
        apt-cache depends "$meta" 2> /dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1
    done | head -n 1
}

fetch_kernel() {
    package=$(kernel_package)
    test -n "$package" || return 1
    echo "fetching the guest's kernel: $package into $cache (not installed)"
    rm -rf "$cache/fetched"
    mkdir -p "$cache/fetched"
    (cd "$cache/fetched" && apt-get -qq -o APT::Sandbox::User=root download "$package" > /dev/null)
    dpkg -x "$cache"/fetched/*.deb "$cache/fetched/tree"
    mkdir -p "$cache/boot"
    cp "$cache"/fetched/tree/boot/vmlinuz-* "$cache/boot/"
    rm -rf "$cache/fetched"
}

missing=$(missing_packages)
kernel=$(kernel_file)
if [ -z "$missing" ] && [ -n "$kernel" ]; then
    exit 0
fi

if [ "${STANNARY_NO_APT:-}" != 1 ] && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null 2>&1; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    if [ -n "$missing" ]; then
        echo "installing system packages:$missing   (STANNARY_NO_APT=1 prevents this)"
        # shellcheck disable=SC2086  a list of packages
        $install $missing > /dev/null || echo "apt-get could not install them"
    fi
    if [ -z "$kernel" ] && [ -z "${STANNARY_VM_KERNEL:-}" ]; then
        fetch_kernel || echo "the guest's kernel could not be fetched"
    fi
fi

missing=$(missing_packages)
kernel=$(kernel_file)
if [ -z "$missing" ] && [ -n "$kernel" ]; then
    exit 0
fi
echo "make e2e-vm cannot boot a guest here; missing:" >&2
test -z "$missing" || echo "  packages; as root: apt-get install$missing" >&2
test -n "$kernel" || echo "  a kernel image: run as root on Debian or Ubuntu, or STANNARY_VM_KERNEL=/path/to/vmlinuz" >&2
exit 1
