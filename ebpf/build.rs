//! Compiles the TC programs with clang; the objects are embedded by `src/object.rs` and `src/variant.rs`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What may be called clang, newest names last: Debian 12 has 14, and installs it under its number too.
const COMPILERS: [&str; 2] = ["clang", "clang-14"];

/// Object to its source. The second serves tests: it puts a tag where only the kernel can put it.
const OBJECTS: [(&str, &str); 2] = [("taps.o", "src/bpf/taps.c"), ("wrapper.o", "tests/bpf/wrapper.c")];

/// A file, a text in it, and what to put in its place.
type Change = (&'static str, &'static str, &'static str);

/// The same programs with some text exchanged.
const EXCHANGED: [(&str, &[&[Change]]); 3] = [
    ("older.o", &[&ANOTHER_LAYOUT]),
    ("hash.o", &[&NO_FRONT_TABLE]),
    ("percpu_hash.o", &[&NO_FRONT_TABLE, &PER_CPU_HASH]),
];

/// Maps of another layout, for the tests of taking such a set over: fields in another order, one longer, one that
/// nobody knows.
const ANOTHER_LAYOUT: [Change; 3] = [
    ("layout.h", "\t__u16 tap;      /* slot of the tap */\n\t__u16 cpu; ", "\t__u16 cpu;\n\t__u16 tap; "),
    ("layout.h", "struct flow_value {\n", "struct flow_value {\n\t__u64 unknown;\n"),
    (
        "layout.h",
        "struct tap {\n\t__u16 slot;\n\t__u16 flags;\n",
        "struct tap {\n\t__u32 flags;\n\t__u16 slot;\n\t__u16 pad;\n",
    ),
];

/// Processors have no front table: for measurements.
const NO_FRONT_TABLE: [Change; 1] =
    [("taps.c", "\tfront = bpf_map_lookup_elem(&tl_front, &index);\n", "\tfront = (struct front *)0;\n")];

/// A flow has a value for each processor, and the same key on all of them: for measurements.
const PER_CPU_HASH: [Change; 2] = [
    (
        "taps.c",
        "BPF_MAP_TYPE_HASH);\n\t__uint(max_entries, 1024);\n\t__type(key, struct flow_key)",
        "BPF_MAP_TYPE_PERCPU_HASH);\n\t__uint(max_entries, 1024);\n\t__type(key, struct flow_key)",
    ),
    ("taps.c", "\tkey.cpu = bpf_get_smp_processor_id();\n", ""),
];

fn main() {
    for folder in ["src/bpf", "tests/bpf"] {
        println!("cargo::rerun-if-changed={folder}");
    }
    println!("cargo::rerun-if-env-changed=CLANG");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let compiler = compiler();
    for (object, source) in OBJECTS {
        compile(&compiler, Path::new(source), &out.join(object));
    }
    for (object, changes) in EXCHANGED {
        let source = exchanged(&out.join(object).with_extension(""), changes);
        compile(&compiler, &source, &out.join(object));
    }
}

/// A copy of the programs' sources in a folder, with these texts exchanged.
fn exchanged(folder: &Path, changes: &[&[Change]]) -> PathBuf {
    fs::create_dir_all(folder).expect("a folder for the other programs");
    for name in ["taps.c", "parse.h", "layout.h"] {
        let mut source = fs::read_to_string(Path::new("src/bpf").join(name)).expect("the programs' source");
        for (_, from, to) in changes.iter().copied().flatten().filter(|(file, ..)| *file == name) {
            assert!(source.contains(from), "{name} has changed: {from:?} is not in it, to be exchanged");
            source = source.replace(from, to);
        }
        fs::write(folder.join(name), source).expect("the other programs' source");
    }
    folder.join("taps.c")
}

fn compiler() -> String {
    if let Ok(named) = env::var("CLANG") {
        return named;
    }
    let runs =
        |name: &&&str| Command::new(name).arg("--version").output().is_ok_and(|ran| ran.status.success());
    let found = COMPILERS.iter().find(runs);
    let found =
        found.expect("clang is needed to compile the TC programs: install it (Debian: clang), or set CLANG");
    (*found).to_owned()
}

fn compile(compiler: &str, source: &Path, object: &Path) {
    // Debian keeps <asm/types.h> in a folder per architecture, which clang does not search for this target.
    let machine = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets the target's architecture");
    let status = Command::new(compiler)
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror", "-Isrc/bpf"])
        .arg(format!("-I/usr/include/{machine}-linux-gnu"))
        .args(["-fdebug-prefix-map=.=ebpf", "-c"])
        .arg(source)
        .arg("-o")
        .arg(object)
        .status()
        .unwrap_or_else(|error| panic!("{compiler} cannot be run: {error}"));
    assert!(
        status.success(),
        "{compiler} could not compile {}: libbpf's headers (Debian: libbpf-dev) are needed too",
        source.display()
    );
}
