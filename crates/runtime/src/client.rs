//! The connection to the API server.

use std::future::Future;
use std::time::Duration;

use kube::client::ClientBuilder;
use kube::{Client, Config};
use thiserror::Error;

use crate::calls::Calls;

/// No write takes longer.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection on which the server has said nothing for so long is taken for dead. The API server sends a bookmark on every watch each 60
/// to 75 s; without this a list that is never answered would wait for ever, and a watch whose server vanished for five minutes.
const SILENCE: Duration = Duration::from_secs(90);

/// Why a call to the API server failed.
#[derive(Debug, Error)]
pub enum Error {
    /// Neither a kubeconfig nor a pod's service account.
    #[error("no way to the API server: {0}")]
    Config(#[from] kube::config::InferConfigError),
    /// The server refused, or could not be reached.
    #[error("{0}")]
    Api(#[from] kube::Error),
    /// No answer in time; the call may or may not have taken effect.
    #[error("no answer from the API server within {} s", WRITE_TIMEOUT.as_secs())]
    Timeout,
    /// A value that cannot be written as JSON.
    #[error("not serialisable: {0}")]
    Json(#[from] serde_json::Error),
}

impl Error {
    /// The HTTP status with which the server refused.
    pub fn status(&self) -> Option<u16> {
        match self {
            Error::Api(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }

    /// The object is not there.
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }

    /// Another writer was faster, the object is there already, or it is another than was meant.
    pub fn is_conflict(&self) -> bool {
        self.status() == Some(409)
    }
}

/// An error in one line, with its causes.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    // kube adds the server's whole answer in Debug form, which says nothing that the words before it do not say.
    let said = |error: &dyn std::error::Error| {
        let mut text = error.to_string();
        text.truncate(text.find(" (Status {").unwrap_or(text.len()));
        text
    };
    let mut line = said(error);
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = said(error);
        // Some errors repeat their cause in their own words.
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        cause = error.source();
    }
    line
}

/// Connects with what the environment offers: a kubeconfig, or the pod's service account. Does not yet talk to the server. Calls are counted.
pub async fn connect(calls: &Calls) -> Result<Client, Error> {
    connect_as(None, calls).await
}

/// The same, to act as another user where that is allowed.
pub async fn connect_as(user: Option<String>, calls: &Calls) -> Result<Client, Error> {
    let mut config = Config::infer().await?;
    config.auth_info.impersonate = user;
    of(config, calls)
}

/// The same with this configuration.
pub fn of(mut config: Config, calls: &Calls) -> Result<Client, Error> {
    // kube retries every call on 429, 503 and 504 up to 15 times with delays of up to 1000 s: a status would be written long after it
    // was true. Watches have their own backoff, and who writes retries with what is true then.
    config.default_retry = false;
    config.read_timeout = Some(SILENCE);
    config.reset_reader_on_write = true;
    Ok(ClientBuilder::try_from(config)?.with_layer(calls).build())
}

/// Ends a call after [`WRITE_TIMEOUT`].
pub async fn in_time<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Error> {
    match tokio::time::timeout(WRITE_TIMEOUT, call).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Error::Timeout),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_with_its_causes_each_once() {
        let status = serde_json::from_value(serde_json::json!({
            "status": "Failure", "message": "pods is forbidden", "reason": "Forbidden", "code": 403, "details": {"kind": "pods"},
        }));
        let error = Error::Api(kube::Error::Api(Box::new(status.unwrap())));
        assert_eq!(with_causes(&error), "ApiError: pods is forbidden: Forbidden");
        assert_eq!(error.status(), Some(403));
        let refused = kube::Error::Service(std::io::Error::from_raw_os_error(111).into());
        assert_eq!(with_causes(&Error::Api(refused)), "ServiceError: Connection refused (os error 111)");
    }
}
