//! The agent's shell from outside: configuration, access, health and the real process under signals, systemd's socket and journald.

#[cfg(test)]
mod access;
#[cfg(test)]
mod config;
#[cfg(test)]
mod journald;
#[cfg(test)]
mod process;
#[cfg(test)]
mod readiness;
#[cfg(test)]
mod support;
#[cfg(test)]
mod tokens;
