//! Base64, in the two alphabets that are needed here: that of URLs without padding, and that of PEM with it.

/// Which 64 characters, and whether the end is filled up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alphabet {
    /// `-` and `_`, no padding.
    Url,
    /// `+` and `/`, filled up with `=`.
    Pem,
}

impl Alphabet {
    fn character(self, six: u8) -> char {
        char::from(match (six, self) {
            (0..=25, _) => b'A' + six,
            (26..=51, _) => b'a' + six - 26,
            (52..=61, _) => b'0' + six - 52,
            (62, Self::Url) => b'-',
            (62, Self::Pem) => b'+',
            (_, Self::Url) => b'_',
            (_, Self::Pem) => b'/',
        })
    }

    fn six(self, character: u8) -> Option<u32> {
        (0..64).find(|six| self.character(*six) == char::from(character)).map(u32::from)
    }
}

pub fn encode(alphabet: Alphabet, bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            if place <= chunk.len() {
                text.push(alphabet.character((word >> (18 - 6 * place) & 63) as u8));
            } else if alphabet == Alphabet::Pem {
                text.push('=');
            }
        }
    }
    text
}

/// None for a text that [`encode`] does not write: no other spelling of the same bytes is taken.
pub fn decode(alphabet: Alphabet, text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for chunk in text.trim_end_matches('=').as_bytes().chunks(4) {
        let mut word = 0;
        for character in chunk {
            word = word << 6 | alphabet.six(*character)?;
        }
        let word = (word << (6 * (4 - chunk.len()))).to_be_bytes();
        bytes.extend_from_slice(&word[1..chunk.len()]);
    }
    (encode(alphabet, &bytes) == text).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_standard_shows_is_written_and_read() {
        // RFC 4648, section 10.
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(encode(Alphabet::Pem, bytes.as_bytes()), text);
            assert_eq!(decode(Alphabet::Pem, text).as_deref(), Some(bytes.as_bytes()));
            assert_eq!(encode(Alphabet::Url, bytes.as_bytes()), text.trim_end_matches('='));
        }
        assert_eq!(encode(Alphabet::Url, &[0xfb, 0xff]), "-_8");
        assert_eq!(encode(Alphabet::Pem, &[0xfb, 0xff]), "+/8=");
    }

    #[test]
    fn another_spelling_is_refused() {
        for text in ["Z", "Zh", "Zg==", "Zg=", "Zm9 ", "Zm9+", "ä"] {
            assert_eq!(decode(Alphabet::Url, text), None, "{text}");
        }
    }
}
