//! Tokens: make, list, revoke.

use crate::{
    master::{core::Core, join::blocking},
    security::{
        Role, Security,
        admission::{NewToken, Refused, TokenRecord},
    },
};
use proto::{CreateTokenReply, CreateTokenRequest, TokenRow};
use sloth_agent::config::{check_label, check_name};
use std::sync::Arc;
use tonic::Status;

/// Of a token that is not an agent's: whom it is for.
const NAME_MAX: usize = 63;

pub fn security(core: &Core) -> Result<Arc<Security>, Status> {
    let plain = || {
        Status::failed_precondition(
            "this master runs without TLS: it has no tokens (`sloth-runner master init` makes what one with TLS wants)",
        )
    };
    core.security.clone().ok_or_else(plain)
}

pub async fn create(security: &Arc<Security>, request: CreateTokenRequest) -> Result<CreateTokenReply, Status> {
    let Some(fingerprint) = security.authority.as_ref().map(|authority| authority.fingerprint) else {
        return Err(Status::failed_precondition(
            "this master cannot make tokens: its configuration has no tls.ca_key_file",
        ));
    };
    let new = check(request).map_err(Status::invalid_argument)?;
    let (token, record) = blocking(security, move |security| {
        security.admission.create(fingerprint, new).map_err(|error| Status::internal(format!("no token: {error}")))
    })
    .await?;
    Ok(CreateTokenReply { token: token.text(), row: Some(row(&record, security.admission.now_ms())) })
}

/// # Errors
/// For people.
pub fn check(request: CreateTokenRequest) -> Result<NewToken, String> {
    let CreateTokenRequest { role, ttl_ms, uses, name, labels } = request;
    let role = Role::from_word(&role).ok_or_else(|| format!("role is {role:?}: it is agent, operator or viewer"))?;
    if role == Role::Agent {
        if !name.is_empty() {
            check_name(&name).map_err(|rule| format!("name is {name:?}, {rule}"))?;
        }
    } else if uses > 0 || !labels.is_empty() {
        return Err(format!("uses and labels are for tokens of agents, and this one is {}'s", role.word()));
    } else if name.len() > NAME_MAX || name.chars().any(char::is_control) {
        return Err(format!("name is longer than {NAME_MAX} bytes, or has control characters in it"));
    }
    for (key, value) in &labels {
        check_label(key, value).map_err(|rule| format!("label {key} is {value:?}, {rule}"))?;
    }
    Ok(NewToken {
        role,
        name,
        labels: labels.into_iter().collect(),
        ttl_ms: (ttl_ms > 0).then_some(ttl_ms),
        uses: (uses > 0).then_some(uses),
    })
}

pub fn row(record: &TokenRecord, now_ms: u64) -> TokenRow {
    let state = match record.is_valid(now_ms) {
        Ok(()) => "valid",
        Err(Refused::Revoked(_)) => "revoked",
        Err(Refused::UsedUp) => "used up",
        Err(_) => "expired",
    };
    TokenRow {
        id: record.id.clone(),
        role: record.role.word().to_owned(),
        name: record.name.clone(),
        labels: record.labels.clone().into_iter().collect(),
        created_unix_ms: record.created_ms,
        expires_unix_ms: record.expires_ms.unwrap_or(0),
        uses_left: record.uses_left.unwrap_or(0),
        limited: record.uses_left.is_some(),
        state: state.to_owned(),
        revoked_unix_ms: record.revoked_ms.unwrap_or(0),
    }
}
