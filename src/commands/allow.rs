//! Which programs the node's owner permits: names exactly as they are asked for, and patterns of paths.

/// What makes a pattern of an entry.
pub const ANY: char = '*';

/// Whether `program`, as it is asked for, is what the entry says. In a pattern `*` is any part of one name in a path,
/// so never a `/`, and never `.` or `..`, which would lead elsewhere.
pub fn permits(entry: &str, program: &[u8]) -> bool {
    if !entry.contains(ANY) {
        return entry.as_bytes() == program;
    }
    let (mut wanted, mut names) = (entry.split('/'), program.split(|byte| *byte == b'/'));
    loop {
        match (wanted.next(), names.next()) {
            (None, None) => return true,
            (Some(wanted), Some(name)) if matches(wanted, name) => {}
            _ => return false,
        }
    }
}

fn matches(wanted: &str, name: &[u8]) -> bool {
    let Some((begin, rest)) = wanted.split_once(ANY) else { return wanted.as_bytes() == name };
    if matches!(name, b"" | b"." | b"..") {
        return false;
    }
    let (middle, end) = rest.rsplit_once(ANY).unwrap_or(("", rest));
    let name = name.strip_prefix(begin.as_bytes()).and_then(|name| name.strip_suffix(end.as_bytes()));
    let Some(mut name) = name else { return false };
    // Each part where it stands first: what comes after it has the most room then.
    for part in middle.split(ANY).filter(|part| !part.is_empty()) {
        let Some(at) = name.windows(part.len()).position(|window| window == part.as_bytes()) else { return false };
        name = &name[at + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_part_of_one_name_and_never_leads_elsewhere() {
        for (entry, program, permitted) in [
            ("/bin/true", "/bin/true", true),
            ("/bin/true", "true", false),
            ("true", "true", true),
            ("/opt/site/*", "/opt/site/deploy", true),
            ("/opt/site/*", "/opt/site/", false),
            ("/opt/site/*", "/opt/site/a/b", false),
            ("/opt/site/*", "/opt/site/..", false),
            ("/opt/*/run", "/opt/a/run", true),
            ("/opt/*/run", "/opt/../run", false),
            ("/opt/*/run", "/opt/./run", false),
            ("/opt/*/run", "/opt//run", false),
            ("/opt/site/*", "/opt/site/../../bin/sh", false),
            ("/opt/deploy-*.sh", "/opt/deploy-a.sh", true),
            ("/opt/deploy-*.sh", "/opt/deploy-.sh", true),
            ("/opt/deploy-*.sh", "/opt/deploy.sh", false),
            ("/opt/deploy-*.sh", "/opt/deploy-/../bin/a.sh", false),
            ("/opt/a*b*c", "/opt/a1b2c", true),
            ("/opt/a*b*c", "/opt/abc", true),
            ("/opt/a*b*c", "/opt/acb", false),
            ("/opt/a*a", "/opt/a", false),
            ("/opt/*a*b*", "/opt/xbxaxbx", true),
            ("/opt/*a*b*", "/opt/bxa", false),
            ("/*", "/a", true),
            ("/*", "a", false),
        ] {
            assert_eq!(permits(entry, program.as_bytes()), permitted, "{entry} {program}");
        }
    }
}
