//! Composes Trunkline's container images as OCI archives, without a container engine.
//!
//! Owns what is in each image; [`layer`] and [`oci`] own the formats, [`debs`] Debian's packages.
//! Must never write outside its output and cache folders, nor let a clock or a user id into an archive:
//! the same inputs give the same digests.

mod debs;
mod layer;
mod oci;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use layer::Layer;
use oci::{Archive, Config};
use serde::Serialize;

/// Shell run by the containers of the OVS image.
const OVS_START: &str = include_str!("images/ovs-start.sh");
/// Upper bound of the OVS image, bytes.
const OVS_IMAGE_LIMIT: u64 = 60_000_000;

/// What `cargo xtask images` accepts.
#[derive(Debug, clap::Args)]
pub(crate) struct ImagesArgs {
    /// Cargo profile whose binaries go into the images.
    #[arg(long, default_value = "ci")]
    profile: String,
    /// Folder with the binaries; default: the folder of that profile beside this program's own.
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// Folder for the archives.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/images"))]
    out: PathBuf,
    /// Only these images, by the last part of their names (such as "trunkline-ovs").
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// One line of `images.json`, which the cluster tier reads.
#[derive(Debug, Serialize)]
struct Built {
    name: String,
    archive: String,
    digest: String,
    bytes: u64,
}

/// An image to compose.
struct Image {
    name: &'static str,
    entrypoint: &'static [&'static str],
    content: fn(&Sources, &mut Layer) -> Result<()>,
}

/// Where content comes from.
struct Sources {
    bin_dir: PathBuf,
    cache: PathBuf,
}

const IMAGES: &[Image] = &[
    Image { name: "trunkline-agent", entrypoint: &["/usr/local/bin/trunkline-agent"], content: agent },
    Image {
        name: "trunkline-controller",
        entrypoint: &["/usr/local/bin/trunkline-controller"],
        content: controller,
    },
    Image { name: "trunkline-ovs", entrypoint: &["/usr/local/bin/ovs-start"], content: openvswitch },
    Image { name: "trunkline-probe", entrypoint: &["/trunkline-probe"], content: probe },
    Image { name: "trunkline-pause", entrypoint: &["/trunkline-probe", "pause"], content: probe },
];

/// Composes the images and writes `images.json` beside them.
pub(crate) fn run(args: &ImagesArgs) -> Result<()> {
    let sources = Sources { bin_dir: args.binaries()?, cache: cache_root()? };
    fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    let mut built = Vec::new();
    for image in IMAGES {
        if args.only.is_empty() || args.only.iter().any(|only| only == image.name) {
            built.push(compose(image, &sources, &args.out)?);
        }
    }
    if built.is_empty() {
        bail!(
            "--only names no image; there are {}",
            IMAGES.iter().map(|i| i.name).collect::<Vec<_>>().join(", ")
        );
    }
    let list = args.out.join("images.json");
    if args.only.is_empty() {
        fs::write(&list, serde_json::to_vec_pretty(&built)?)
            .with_context(|| format!("cannot write {}", list.display()))?;
    }
    Ok(())
}

impl ImagesArgs {
    fn binaries(&self) -> Result<PathBuf> {
        if let Some(dir) = &self.bin_dir {
            return Ok(dir.clone());
        }
        let own = std::env::current_exe().context("cannot find this program's own path")?;
        let profiles =
            own.parent().and_then(Path::parent).context("this program is not in a cargo target folder")?;
        Ok(profiles.join(&self.profile))
    }
}

fn compose(image: &Image, sources: &Sources, out: &Path) -> Result<Built> {
    let mut layer = Layer::default();
    (image.content)(sources, &mut layer).with_context(|| format!("image {}", image.name))?;
    let version = env!("CARGO_PKG_VERSION");
    let name = format!("trunkline.io/{}:{version}", image.name);
    let file = format!("{}.tar", image.name);
    let config = Config { name: &name, title: image.name, version, entrypoint: image.entrypoint };
    let tar = layer.into_tar()?;
    let archive = Archive::new(&config, &tar)?;
    let digest = archive.digest().to_owned();
    let bytes = archive.write(&out.join(&file))?;
    if image.name == "trunkline-ovs" && bytes > OVS_IMAGE_LIMIT {
        bail!("{name} has {bytes} bytes, more than the {OVS_IMAGE_LIMIT} it may have");
    }
    println!("{name} {:.1} MB {digest}", megabytes(bytes));
    Ok(Built { name, archive: file, digest, bytes })
}

#[expect(clippy::cast_precision_loss, reason = "sizes printed for people, far below 2^52")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

impl Sources {
    fn binary(&self, layer: &mut Layer, name: &str, target: &str) -> Result<()> {
        let path = self.bin_dir.join(name);
        if !path.is_file() {
            bail!("{} is missing: build the workspace with the same profile first", path.display());
        }
        layer.file(target, &path, 0o755)
    }
}

fn base(layer: &mut Layer) {
    // Paths in results of the container runtime start with /var/run; the mounts are under /run.
    layer.symlink("var/run", "/run");
    layer.directory("run", 0o755);
    layer.directory("tmp", 0o1777);
    layer.text("etc/passwd", "root:x:0:0:root:/:/sbin/nologin\n", 0o644);
    layer.text("etc/group", "root:x:0:\n", 0o644);
}

fn agent(sources: &Sources, layer: &mut Layer) -> Result<()> {
    base(layer);
    for name in ["trunkline-agent", "trunkctl", "trunkline-cni"] {
        sources.binary(layer, name, &format!("usr/local/bin/{name}"))?;
    }
    layer.symlink("usr/local/bin/kubectl-trunkline", "trunkctl");
    Ok(())
}

fn controller(sources: &Sources, layer: &mut Layer) -> Result<()> {
    base(layer);
    sources.binary(layer, "trunkline-controller", "usr/local/bin/trunkline-controller")
}

fn probe(sources: &Sources, layer: &mut Layer) -> Result<()> {
    base(layer);
    sources.binary(layer, "trunkline-probe", "trunkline-probe")
}

fn openvswitch(sources: &Sources, layer: &mut Layer) -> Result<()> {
    base(layer);
    for (link, target) in
        [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")]
    {
        layer.symlink(link, target);
    }
    let root = debs::openvswitch_root(&sources.cache)?;
    debs::select(&root, layer)?;
    layer.symlink("usr/sbin/ovs-vswitchd", "/usr/lib/openvswitch-switch/ovs-vswitchd");
    layer.symlink("usr/bin/sh", "dash");
    layer.text("usr/local/bin/ovs-start", OVS_START, 0o755);
    Ok(())
}

/// Where slow things are kept between builds: `TRUNKLINE_CACHE`, else the user's cache folder.
pub(crate) fn cache_root() -> Result<PathBuf> {
    let from = |key: &str| std::env::var_os(key).filter(|value| !value.is_empty()).map(PathBuf::from);
    from("TRUNKLINE_CACHE")
        .or_else(|| from("XDG_CACHE_HOME").map(|dir| dir.join("trunkline")))
        .or_else(|| from("HOME").map(|dir| dir.join(".cache/trunkline")))
        .context("none of TRUNKLINE_CACHE, XDG_CACHE_HOME and HOME is set: no place for the cache")
}
