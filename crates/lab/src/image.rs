//! Container images without a container engine: one layer, made of our programs and the shared libraries that they need.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::process::run;
use crate::programs;

/// An image to be imported into every node.
#[derive(Debug, Clone)]
pub struct Image {
    name: String,
    programs: Vec<PathBuf>,
    entrypoint: Vec<String>,
}

impl Image {
    /// The product's image, from the programs as they are built now: `operator`, `agent` and `probe`.
    pub fn product() -> Result<Image> {
        Ok(Image::new(Image::PRODUCT, programs::ours(&["operator", "agent", "probe"])?))
    }

    /// The image with `probe` alone, which every node has: also the one that holds a pod's namespaces.
    pub fn probe() -> Result<Image> {
        let mut image = Image::new(Image::PROBE, programs::ours(&["probe"])?);
        image.entrypoint = ["/bin/probe", "pause"].map(str::to_owned).to_vec();
        Ok(image)
    }

    /// What [`Image::product`] is called in manifests (the registry's name in front may be left out there).
    pub const PRODUCT: &str = "docker.io/kube-security-groups/kube-security-groups:dev";
    /// What [`Image::probe`] is called.
    pub const PROBE: &str = "docker.io/kube-security-groups/probe:dev";

    /// An image of programs, which will be in its `/bin`. The name needs its registry (`docker.io/…`) and tag.
    pub fn new(name: &str, programs: Vec<PathBuf>) -> Image {
        Image { name: name.to_owned(), programs, entrypoint: Vec::new() }
    }

    /// Its full name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes it as `docker save` would; `ctr images import` reads that.
    pub fn write(&self, file: &Path) -> Result<()> {
        let layer = self.layer(file.parent().unwrap_or(Path::new(".")))?;
        let digest = hex(&Sha256::digest(&layer));
        let config = serde_json::to_vec(&json!({
            "architecture": architecture(),
            "os": "linux",
            "config": { "Entrypoint": self.entrypoint, "Env": ["PATH=/bin"] },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
        }))?;
        let config_name = format!("{}.json", hex(&Sha256::digest(&config)));
        let layer_name = format!("{digest}.tar");
        let manifest = serde_json::to_vec(&json!([{ "Config": config_name, "RepoTags": [self.name], "Layers": [layer_name] }]))?;

        let out = fs::File::create(file).with_context(|| format!("creating {}", file.display()))?;
        let mut archive = tar::Builder::new(std::io::BufWriter::new(out));
        for (name, content) in [(&config_name, &config), (&layer_name, &layer), (&"manifest.json".to_owned(), &manifest)] {
            append(&mut archive, name, content, 0o644)?;
        }
        archive.into_inner()?.into_inner().context("writing the image")?;
        Ok(())
    }

    fn layer(&self, scratch: &Path) -> Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut libraries = Vec::new();
        for program in &self.programs {
            let name = program.file_name().with_context(|| format!("{} is no program", program.display()))?;
            let content = without_debug_information(program, &scratch.join(format!("stripped-{}", std::process::id())))?;
            append(&mut archive, &format!("bin/{}", name.to_string_lossy()), &content, 0o755)?;
            libraries.extend(shared_libraries(program)?);
        }
        libraries.sort();
        libraries.dedup();
        for library in libraries {
            let content = fs::read(&library).with_context(|| format!("reading {}", library.display()))?;
            append(&mut archive, library.to_string_lossy().trim_start_matches('/'), &content, 0o755)?;
        }
        Ok(archive.into_inner()?)
    }
}

/// A program's content, of half the size if `strip` is there: every node reads, checks and unpacks it.
fn without_debug_information(program: &Path, scratch: &Path) -> Result<Vec<u8>> {
    let stripped = run(Command::new("strip").arg("--strip-debug").arg("-o").arg(scratch).arg(program));
    let content = fs::read(if stripped.is_ok() { scratch } else { program }).with_context(|| format!("reading {}", program.display()));
    // Absent where `strip` failed.
    let _ = fs::remove_file(scratch);
    content
}

/// Nothing but name, content and mode: the same programs give the same image.
fn append<W: std::io::Write>(archive: &mut tar::Builder<W>, name: &str, content: &[u8], mode: u32) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    archive.append_data(&mut header, name, content).with_context(|| format!("adding {name} to an image"))
}

/// The loader and the libraries of a program, at the paths where the loader looks for them.
fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    // `ldd` fails on a program that is linked statically, which then needs nothing.
    let Ok(text) = run(Command::new("ldd").arg(program)) else { return Ok(Vec::new()) };
    Ok(parse_ldd(&text))
}

/// `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)` and `/lib64/ld-linux-x86-64.so.2 (0x…)`; the vdso has no path.
fn parse_ldd(text: &str) -> Vec<PathBuf> {
    text.lines()
        .filter_map(|line| {
            let path = line.split("=>").last()?.split_whitespace().next()?;
            path.starts_with('/').then(|| PathBuf::from(path))
        })
        .collect()
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn ldd_names_files_and_leaves_the_vdso_out() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibmnl.so.0 => /lib/x86_64-linux-gnu/libmnl.so.0 (0x00007f1)\n\t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        let found: Vec<String> = parse_ldd(text).iter().map(|path| path.display().to_string()).collect();
        assert_eq!(found, ["/lib/x86_64-linux-gnu/libmnl.so.0", "/lib64/ld-linux-x86-64.so.2"]);
    }

    #[test]
    fn an_image_is_a_docker_archive_whose_digests_hold() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("image.tar");
        let shell = fs::canonicalize("/bin/sh").unwrap();
        Image::new("docker.io/test/shell:1", vec![shell.clone()]).write(&file).unwrap();

        let mut entries = std::collections::BTreeMap::new();
        for entry in tar::Archive::new(fs::File::open(&file).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            entries.insert(entry.path().unwrap().display().to_string(), content);
        }
        let manifest: serde_json::Value = serde_json::from_slice(&entries["manifest.json"]).unwrap();
        assert_eq!(manifest[0]["RepoTags"][0], "docker.io/test/shell:1");
        let config: serde_json::Value = serde_json::from_slice(&entries[manifest[0]["Config"].as_str().unwrap()]).unwrap();
        let layer = &entries[manifest[0]["Layers"][0].as_str().unwrap()];
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", hex(&Sha256::digest(layer))));

        // What is in the layer runs by itself: the program, its loader and its libraries.
        let root = dir.path().join("root");
        tar::Archive::new(layer.as_slice()).unpack(&root).unwrap();
        let program = format!("/bin/{}", shell.file_name().unwrap().to_string_lossy());
        let said = run(Command::new("chroot").arg(&root).args([&program, "-c", "echo works"])).unwrap();
        assert_eq!(said, "works\n");
    }
}
