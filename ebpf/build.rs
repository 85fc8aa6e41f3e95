//! Compiles the TC programs with clang; the object is embedded by `src/object.rs`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What may be called clang, newest names last: Debian 12 has 14, and installs it under its number too.
const COMPILERS: [&str; 2] = ["clang", "clang-14"];

/// Object to its source. The second serves tests: it puts a tag where only the kernel can put it.
const OBJECTS: [(&str, &str); 2] = [("taps.o", "src/bpf/taps.c"), ("wrapper.o", "tests/bpf/wrapper.c")];

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
    let older = another_layout(&out);
    compile(&compiler, &older, &out.join("older.o"));
}

/// The same programs over maps of another layout, for the tests of taking such a set over: fields in another order,
/// one longer, one that nobody knows.
fn another_layout(out: &Path) -> PathBuf {
    const CHANGES: [(&str, &str); 3] = [
        ("\t__u16 tap;      /* slot of the tap */\n\t__u16 cpu; ", "\t__u16 cpu;\n\t__u16 tap; "),
        ("struct flow_value {\n", "struct flow_value {\n\t__u64 unknown;\n"),
        (
            "struct tap {\n\t__u16 slot;\n\t__u16 flags;\n",
            "struct tap {\n\t__u32 flags;\n\t__u16 slot;\n\t__u16 pad;\n",
        ),
    ];
    let folder = out.join("older");
    fs::create_dir_all(&folder).expect("a folder for the other layout");
    for name in ["taps.c", "parse.h"] {
        fs::copy(Path::new("src/bpf").join(name), folder.join(name)).expect("the programs' source");
    }
    let mut layout = fs::read_to_string("src/bpf/layout.h").expect("the layout");
    for (from, to) in CHANGES {
        assert!(
            layout.contains(from),
            "the layout has changed: {from:?} is not in it, for tests to exchange"
        );
        layout = layout.replace(from, to);
    }
    fs::write(folder.join("layout.h"), layout).expect("the other layout");
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
