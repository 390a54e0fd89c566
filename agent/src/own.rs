//! Sessions of one's own beside the running agent's, for `doctor` and `record`: the configured accounts at chosen nodes.

use std::time::Duration;

use ecss_switch::connect::Endpoint;
use mediator_client::{call_api::CallApiConfig, csta::CstaConfig, terminal::TerminalConfig};
use secrecy::SecretString;

use crate::config::{Config, PasswordSource, Problem, SwitchDomain};

/// The longest wait of a session that is only looked at.
const PATIENCE: Duration = Duration::from_secs(15);
/// Nobody moves back to another node in the short time of such a session.
const NEVER: Duration = Duration::from_secs(86_400);

fn password(key: &str, source: Result<PasswordSource, Problem>) -> Result<SecretString, Problem> {
    source?.read().map_err(|what| Problem::new(key, what))
}

/// The terminal at these nodes. `None`: it is not configured.
pub(crate) fn terminal(config: &Config, nodes: Vec<Endpoint>) -> Option<Result<TerminalConfig, Problem>> {
    let link = config.switch.terminal.as_ref()?;
    Some(password("switch.terminal", link.password()).map(|password| TerminalConfig {
        nodes,
        login: link.login.clone(),
        password,
        half_open_after: config.switch.half_open_after.0,
        connect_timeout: config.switch.connect_timeout.0.min(PATIENCE),
        command_timeout: config.switch.command_timeout.0.min(PATIENCE),
        max_parallel: 2,
        fail_back_after: NEVER,
        seed: None,
    }))
}

/// A domain's Call API at these nodes. `None`: it is not configured.
pub(crate) fn call_api(config: &Config, domain: &SwitchDomain, nodes: Vec<Endpoint>) -> Option<Result<CallApiConfig, Problem>> {
    let (_, account) = (config.switch.call_api.as_ref()?, domain.call_api.as_ref()?);
    let key = format!("switch.domains.{}.call_api", domain.name);
    Some(password(&key, account.source(&key)).map(|password| CallApiConfig {
        nodes,
        domain: domain.name.clone(),
        login: account.login.clone(),
        password,
        half_open_after: config.switch.half_open_after.0,
        connect_timeout: config.switch.connect_timeout.0.min(PATIENCE),
        command_timeout: config.switch.command_timeout.0.min(PATIENCE),
        fail_back_after: NEVER,
        window: 8,
        seed: None,
    }))
}

/// A domain's CSTA at these nodes. `None`: it is not configured.
pub(crate) fn csta(config: &Config, domain: &SwitchDomain, nodes: Vec<Endpoint>) -> Option<Result<CstaConfig, Problem>> {
    let (link, account) = (config.switch.csta.as_ref()?, domain.csta.as_ref()?);
    let key = format!("switch.domains.{}.csta", domain.name);
    Some(password(&key, account.source(&key)).map(|password| CstaConfig {
        nodes,
        domain: domain.name.clone(),
        password,
        session_duration: link.session_duration.0,
        half_open_after: config.switch.half_open_after.0,
        connect_timeout: config.switch.connect_timeout.0.min(PATIENCE),
        command_timeout: config.switch.command_timeout.0.min(PATIENCE),
        fail_back_after: NEVER,
        window: 64,
        seed: None,
    }))
}
