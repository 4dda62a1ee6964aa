//! Blocks of a document with what stands before them.

/// What needs no test.
const LANGUAGES: [&str; 4] = ["sh", "toml", "", "python"];
const NOTES: [&str; 6] = ["not run", "first", "with", "until", "exit", "shown"];

pub struct Block {
    /// Document and line.
    pub place: String,
    pub language: String,
    text: String,
    notes: Vec<(String, String)>,
    /// Of the block behind it that shows what it says.
    shown: String,
}

impl Block {
    pub fn runs(&self) -> bool {
        !self.notes.iter().any(|(note, _)| note == "not run")
    }

    fn all(&self, wanted: &str) -> impl Iterator<Item = &str> {
        self.notes.iter().filter(move |(note, _)| note == wanted).map(|(_, value)| value.as_str())
    }

    pub fn first(&self) -> String {
        self.all("first").map(|commands| format!("{commands}\n")).collect()
    }

    /// The block, with what stands for something put in.
    pub fn commands(&self) -> String {
        let put = |text: String, pair: &str| {
            let (from, to) = pair.split_once(" => ").expect("it was looked at");
            text.replace(from, to)
        };
        self.all("with").fold(self.text.clone(), put)
    }

    pub fn until(&self) -> &str {
        self.all("until").next().unwrap_or_default()
    }

    pub fn exit(&self) -> &str {
        self.all("exit").next().unwrap_or("0")
    }

    pub fn shown(&self) -> &str {
        &self.shown
    }

    fn check(&self) -> Result<(), String> {
        let fail = |why: String| Err(format!("{}: {why}", self.place));
        for (note, value) in &self.notes {
            if !NOTES.contains(&note.as_str()) {
                return fail(format!("{note:?} is no note: {NOTES:?}"));
            }
            if value.is_empty() != (note == "shown") {
                return fail(format!("{note:?} says nothing, or too much"));
            }
            if note == "with" && !value.split_once(" => ").is_some_and(|(from, _)| self.text.contains(from)) {
                return fail(format!("{value:?} is not TEXT => VALUE with a text of the block"));
            }
        }
        Ok(())
    }
}

/// The blocks that run or say why not; what is wrong with others.
pub fn blocks(document: &str, text: &str) -> Vec<Result<Block, String>> {
    let mut blocks: Vec<Result<Block, String>> = Vec::new();
    let (mut notes, mut note) = (Vec::new(), String::new());
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let line_text = line.trim();
        if line_text.starts_with("<!--") || !note.is_empty() {
            note += &format!("{line_text}\n");
            if line_text.ends_with("-->") {
                let whole = std::mem::take(&mut note);
                let inner = whole.trim().trim_start_matches("<!--").trim_end_matches("-->").trim();
                let (name, value) = inner.split_once(':').unwrap_or((inner, ""));
                notes.push((name.trim().to_owned(), value.trim().to_owned()));
            }
            continue;
        }
        let Some(language) = line_text.strip_prefix("```") else {
            if !line_text.is_empty() {
                notes.clear();
            }
            continue;
        };
        let indent = line.len() - line.trim_start().len();
        let inside = lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```");
        let text: String = inside.map(|line| format!("{}\n", line.get(indent..).unwrap_or_default())).collect();
        let (place, language) = (format!("{document}:{}", at + 1), language.to_owned());
        let notes = std::mem::take(&mut notes);
        let block = Block { place, language, text, notes, shown: String::new() };
        if !LANGUAGES.contains(&block.language.as_str()) {
            blocks.push(Err(format!("{}: {:?} is none of {LANGUAGES:?}", block.place, block.language)));
        } else if let Err(why) = block.check() {
            blocks.push(Err(why));
        } else if ["sh", "toml"].contains(&block.language.as_str()) {
            blocks.push(Ok(block));
        } else if block.notes.iter().any(|(note, _)| note == "shown") {
            match blocks.last_mut() {
                Some(Ok(last)) if last.runs() => last.shown = block.text,
                _ => blocks.push(Err(format!("{}: no block before it has run", block.place))),
            }
        }
    }
    blocks
}

#[test]
fn notes_and_blocks_are_read_as_they_stand() {
    let text = "\
<!-- first:
a
b
-->
<!-- with: ID => $id -->
```sh
get ID
```

```
not looked at
```

1. x

   <!-- not run: needs systemd -->
   ```sh
   systemctl
   ```

<!-- shown -->
```
no
```

<!-- frist: a -->
```sh
x
```

```bash
y
```
";
    let read = blocks("d.md", text);
    let first = read[0].as_ref().ok().unwrap();
    assert_eq!((first.first().as_str(), first.commands().as_str()), ("a\nb\n", "get $id\n"));
    assert!(first.runs() && first.shown().is_empty() && first.place == "d.md:6");
    let second = read[1].as_ref().ok().unwrap();
    assert!(!second.runs() && second.commands() == "systemctl\n");
    let wrong: Vec<&str> = read[2..].iter().map(|block| block.as_ref().err().unwrap().as_str()).collect();
    assert!(wrong[0].contains("no block before it has run"), "{wrong:?}");
    assert!(wrong[1].contains("\"frist\" is no note") && wrong[2].contains("\"bash\" is none of"), "{wrong:?}");
}
