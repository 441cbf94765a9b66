//! `image`: makes an image of programs. `deploy/image` calls it, and so does `deploy/Dockerfile`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use image::Image;

/// Makes a container image of programs and the shared libraries that they need.
#[derive(Parser)]
struct Arguments {
    /// What it is called: REGISTRY/REPOSITORY:TAG
    #[arg(long)]
    name: String,
    /// The OCI image archive to write
    #[arg(long, required_unless_present = "root")]
    out: Option<PathBuf>,
    /// Write the files of the image to this folder
    #[arg(long)]
    root: Option<PathBuf>,
    /// What runs where nobody says otherwise
    #[arg(long)]
    entrypoint: Vec<String>,
    /// Whose user and group they run as where nobody says otherwise, as numbers: UID:GID; root's if left out
    #[arg(long, default_value = "")]
    user: String,
    /// The programs
    #[arg(required = true)]
    programs: Vec<PathBuf>,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("image: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let words: Vec<&str> = arguments.entrypoint.iter().map(String::as_str).collect();
    let image = Image::new(&arguments.name, arguments.programs).entrypoint(&words).user(&arguments.user).small();
    if let Some(folder) = arguments.root {
        image.unpack(&folder)?;
    }
    if let Some(file) = arguments.out {
        let bytes = image.write(&file)?;
        println!("{}  {}  {:.1} MiB", file.display(), image.name(), bytes as f64 / 1024.0 / 1024.0);
    }
    Ok(())
}
