//! Logs on standard error.

use std::io::IsTerminal;
use std::str::FromStr;

pub use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// What is logged unless told otherwise. kube logs every failed call as an error; whoever made the call says so in better words.
pub const DEFAULT_FILTER: &str = "info,kube_client::client::builder=off";

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            other => Err(format!("`{other}` is neither text nor json")),
        }
    }
}

/// Starts logging; `filter` is in the syntax of `RUST_LOG`, which wins where it is set. Says why where the filter cannot be read.
pub fn start(format: Format, filter: &str) -> Result<(), String> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(from_environment) if !from_environment.is_empty() => from_environment,
        _ => filter.to_string(),
    };
    let filter = EnvFilter::try_new(&filter).map_err(|error| format!("log filter `{filter}`: {error}"))?;
    let ansi = std::io::stderr().is_terminal();
    tracing::subscriber::set_global_default(subscriber(format, filter, ansi, std::io::stderr)).map_err(|error| error.to_string())
}

/// What makes lines of events.
pub fn subscriber<W>(format: Format, filter: EnvFilter, ansi: bool, writer: W) -> Box<dyn tracing::Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match format {
        Format::Text => Box::new(builder.with_ansi(ansi).finish()),
        Format::Json => Box::new(builder.json().flatten_event(true).finish()),
    }
}
