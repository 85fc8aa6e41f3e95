//! The two scripts of a guest: what mounts its root, and what runs its command.
//!
//! Pure but for writing a file.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::{PATIENCE, Share};
use crate::debs;

/// How folders of the host are mounted.
const PLAN9: &str = "trans=virtio,version=9p2000.L,msize=512000";

/// Process 1 until the root is there: everything is read from the host and written to memory.
pub(super) fn init(shares: &[Share]) -> String {
    let mut text = format!(
        "#!/bin/busybox sh\n\
         B=/bin/busybox\n\
         $B mount -t proc p /proc; $B mount -t sysfs s /sys; $B mount -t devtmpfs d /dev\n\
         for m in $($B cat /order); do $B insmod /modules/$m || echo \"insmod $m failed\"; done\n\
         ro=ro,{PLAN9},cache=loose\n\
         $B mount -t 9p -o $ro root /low; $B mount -t tmpfs -o size=90% u /up; $B mkdir /up/u /up/w\n\
         $B mount -t overlay -o lowerdir=/low,upperdir=/up/u,workdir=/up/w o /new || exec $B poweroff -f\n\
         for l in bin sbin lib lib64; do [ -e /new/$l ] || $B ln -s usr/$l /new/$l; done\n\
         [ -e /new/usr/bin/sh ] || $B ln -s bash /new/usr/bin/sh\n\
         for d in run tmp proc sys dev root exchange lib/modules; do $B mkdir -p /new/$d; done\n\
         $B mount -t 9p -o $ro modules /new/usr/lib/modules\n\
         $B mount -t 9p -o rw,{PLAN9},cache=none exchange /new/exchange\n"
    );
    for share in shares {
        let (tag, path) = (&share.tag, share.path.display());
        let _ = write!(
            text,
            "$B mkdir -p /low-{tag} /up/{tag} /up/w-{tag} /new{path}\n\
             $B mount -t 9p -o $ro {tag} /low-{tag}\n\
             $B mount -t overlay -o lowerdir=/low-{tag},upperdir=/up/{tag},workdir=/up/w-{tag} o /new{path}\n"
        );
    }
    text.push_str(
        "for d in proc sys dev; do $B mount --move /$d /new/$d; done\n\
         exec $B switch_root /new /bin/bash /exchange/main\n",
    );
    text
}

/// Process 1 from then on: what a machine's boot does, the command, its exit code, the end.
pub(super) fn main(shares: &[Share], command: &[String]) -> String {
    let cache = crate::paths::cache();
    let words: Vec<String> =
        command.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect();
    let listed: Vec<String> = shares.iter().map(|share| share.path.display().to_string()).collect();
    format!(
        "#!/bin/bash\n\
         # Shared with the host: {shares}\n\
         export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8\n\
         mount -t tmpfs -o mode=755 r /run; mount -t tmpfs -o mode=1777 t /tmp\n\
         mkdir -p /dev/pts /dev/shm /run/netns /run/lock /sys/fs/cgroup\n\
         mount -t devpts -o gid=5,mode=620,ptmxmode=666 d /dev/pts; mount -t tmpfs d /dev/shm\n\
         mount -t cgroup2 c /sys/fs/cgroup; mount -t bpf b /sys/fs/bpf\n\
         ulimit -n 65536; ulimit -l unlimited; echo guest > /proc/sys/kernel/hostname; ip link set lo up\n\
         echo '127.0.0.1 localhost guest' > /etc/hosts\n\
         [ -e /etc/passwd ] || echo 'root:x:0:0:root:/root:/bin/bash' > /etc/passwd\n\
         modprobe openvswitch || echo 'no openvswitch module'\n\
         modprobe tun || echo 'no tun module'\n\
         export TRUNKLINE_CACHE='{cache}' TRUNKLINE_E2E_OVS_ROOT='{ovs}' TRUNKLINE_E2E_DATAPATH=system\n\
         export TRUNKLINE_E2E_PATIENCE={PATIENCE} CI=true\n\
         {command} > /exchange/output 2>&1; code=$?\n\
         for run in '{results}'/e2e/*; do\n\
           [ $code != 0 ] && [ \"$run\" -nt /exchange/main ] || continue\n\
           to=/exchange/logs/${{run##*/}}; mkdir -p \"$to\"; cp -r \"$run/logs/.\" \"$to\"\n\
         done\n\
         echo $code > /exchange/code.new; mv /exchange/code.new /exchange/code\n\
         sync; echo o > /proc/sysrq-trigger; sleep 60\n",
        shares = listed.join(" "),
        cache = cache.display(),
        ovs = std::env::var(debs::OVS_ROOT).unwrap_or_default(),
        results = crate::paths::output().display(),
        command = words.join(" "),
    )
}

/// Writes an executable file.
pub(super) fn write_program(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).context("making it executable")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares() -> Vec<Share> {
        let share = |tag: &str, path: &str| Share { tag: tag.to_owned(), path: path.into() };
        vec![share("share0", "/src/tree"), share("share1", "/root/cache")]
    }

    #[test]
    fn a_command_reaches_the_guest_word_by_word() {
        let command = ["/bin/echo", "two words", "it's", "$HOME"].map(str::to_owned);
        let text = main(&shares(), &command);
        let line = r"'/bin/echo' 'two words' 'it'\''s' '$HOME' > /exchange/output 2>&1; code=$?";
        assert!(text.lines().any(|found| found == line), "{text}");
    }

    #[test]
    fn every_folder_is_mounted_where_the_host_has_it_and_written_to_memory() {
        let text = init(&shares());
        for Share { tag, path } in shares() {
            let read =
                text.lines().position(|line| line == format!("$B mount -t 9p -o $ro {tag} /low-{tag}"));
            let end = format!(" o /new{}", path.display());
            let written = text
                .lines()
                .position(|line| line.contains(&format!("upperdir=/up/{tag},")) && line.ends_with(&end));
            assert!(read.is_some() && written > read, "{text}");
        }
        assert!(text.contains("ro=ro,"), "{text}");
    }

    #[test]
    fn the_exit_code_is_published_whole_and_after_everything_else() {
        let text = main(&shares(), &["true".to_owned()]);
        let published = text.find("mv /exchange/code.new /exchange/code").expect("published");
        for before in ["> /exchange/output", "/exchange/logs/", "echo $code > /exchange/code.new"] {
            assert!(text.find(before).is_some_and(|at| at < published), "{before}: {text}");
        }
    }
}
