//! The SDK's client, set up so that what it does on the wire is what the protocol says.

use std::time::Duration;

use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_runtime::auth::PayloadSigningOverride;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    AppName, BehaviorVersion, Builder, ConfigBag, Credentials, Intercept, Region,
    RequestChecksumCalculation, ResponseChecksumValidation, RuntimeComponents,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::BoxError;
use entity::ContentDigest;

use crate::config::S3StorageConfig;

/// Attempts at a read, a listing or a delete: all of them may be repeated without harm.
const READ_ATTEMPTS: u32 = 3;

/// Before the second attempt, at most; the SDK doubles it and draws from the whole span. A client
/// waits meanwhile: the SDK's own second is long for it.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// The region to sign for where nobody named one and the endpoint is not AWS's: stores that care
/// for no region take this one.
const DEFAULT_REGION: &str = "us-east-1";

/// Builds a client. Nothing is sent yet, except that AWS's own chain may ask the instance's metadata
/// for its region.
pub(super) async fn connect(config: &S3StorageConfig) -> Result<Client, &'static str> {
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).region(region(config));
    match (&config.access_key_id, &config.secret_access_key) {
        (Some(id), Some(secret)) => {
            let credentials = Credentials::new(id, secret, None, None, "hapax-config");
            loader = loader.credentials_provider(credentials);
        }
        (None, None) => {}
        _ => return Err("access_key_id and secret_access_key go together"),
    }
    if let Some(endpoint) = &config.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    let shared = loader.load().await;
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(config.connect_timeout)
        .operation_attempt_timeout(config.operation_timeout)
        .build();
    // A time-out ends with the answer's head; from then on a stream that stands still is ended here.
    let stalled = StalledStreamProtectionConfig::enabled()
        .grace_period(config.operation_timeout)
        .build();
    let built = Builder::from(&shared)
        .app_name(AppName::new("hapax").expect("a name of letters"))
        .force_path_style(config.path_style)
        .retry_config(
            RetryConfig::standard()
                .with_max_attempts(READ_ATTEMPTS)
                .with_initial_backoff(FIRST_BACKOFF),
        )
        .timeout_config(timeouts)
        .stalled_stream_protection(stalled)
        // Hapax gives its own SHA-256; the SDK's default CRC would read every byte once more, and
        // sends it in a trailer that not every S3-compatible store takes.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .build();
    Ok(Client::from_conf(built))
}

fn region(config: &S3StorageConfig) -> RegionProviderChain {
    let chain = RegionProviderChain::first_try(config.region.clone().map(Region::new));
    if config.endpoint.is_some() {
        // Not AWS: the metadata service would only be waited for.
        return chain
            .or_else(EnvironmentVariableRegionProvider::new())
            .or_else(DEFAULT_REGION);
    }
    chain.or_default_provider()
}

/// Settings of the one PUT of a key: a single attempt (rule R8), and the time that its bytes need.
pub(super) fn put_once(allowed: Duration) -> Builder {
    let timeouts = TimeoutConfig::builder()
        .operation_timeout(allowed)
        .operation_attempt_timeout(allowed)
        .build();
    Builder::new()
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
}

/// Signs a payload by its known SHA-256. The signer would hash a body in memory once more and leave
/// a streamed one unsigned.
#[derive(Debug)]
pub(super) struct SignKnownPayload(pub(super) ContentDigest);

impl Intercept for SignKnownPayload {
    fn name(&self) -> &'static str {
        "SignKnownPayload"
    }

    fn modify_before_signing(
        &self,
        _: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let payload = PayloadSigningOverride::Precomputed(self.0.to_string());
        config.interceptor_state().store_put(payload);
        Ok(())
    }
}
