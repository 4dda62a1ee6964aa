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
    } else {
        check_person(&name).map_err(|rule| format!("name is {name:?}, {rule}"))?;
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

/// Two names that differ must look different, whoever lists them.
///
/// # Errors
/// Reads after "name is …, ".
fn check_person(name: &str) -> Result<(), String> {
    // Letters that show nothing.
    let is_blank = |c| matches!(c, '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}');
    let shows = |c: char| c == ' ' || c.is_ascii_graphic() || c.is_alphanumeric() && !is_blank(c);
    let wrong = if name.len() > NAME_MAX {
        "too long".to_owned()
    } else if let Some(bad) = name.chars().find(|&c| !shows(c)) {
        format!("with {bad:?} in it")
    } else if name != name.trim() || name.contains("  ") {
        "with spaces that nobody sees".to_owned()
    } else {
        return Ok(());
    };
    Err(format!("{wrong}: use up to {NAME_MAX} bytes of letters, digits, ASCII signs, and single spaces between them"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_people_show_all_that_is_in_them() {
        for good in ["", "eva", "Eva Müller (on call)", "eva@example.org", "Ева", "日本語"] {
            assert_eq!(check_person(good), Ok(()), "{good}");
        }
        let long = "x".repeat(64);
        let bad = [
            "eva\u{200b}",
            "eva\u{202e}tnega",
            "e\u{2028}va",
            "e\u{ad}va",
            "\u{feff}eva",
            "e\u{a0}va",
            "eva\u{3164}",
            "e\nva",
            "\u{1b}[31meva",
            " eva",
            "eva ",
            "e  va",
            &long,
        ];
        for bad in bad {
            assert!(check_person(bad).is_err(), "{bad:?}");
        }
        let request = CreateTokenRequest { role: "viewer".into(), name: "eva\u{200b}".into(), ..Default::default() };
        assert_eq!(
            check(request).unwrap_err(),
            "name is \"eva\\u{200b}\", with '\\u{200b}' in it: use up to 63 bytes of letters, digits, ASCII signs, and \
             single spaces between them"
        );
    }
}
