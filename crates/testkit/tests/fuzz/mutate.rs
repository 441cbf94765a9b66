//! Changes of JSON that stay close to what programs look at.

use serde_json::{Value, json};

/// Random numbers that depend on the seed alone (xorshift).
pub struct Random(pub u64);

impl Random {
    /// Less than this, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.max(1);
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    /// One of these, which are not none.
    pub fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// Values at the edges of what is legal.
fn edges() -> Vec<Value> {
    let mut edges: Vec<Value> = vec![Value::Null, json!([]), json!({}), json!(true), json!(false), json!(1e308), json!(0.5)];
    edges.extend([-1i64, 0, 1, 6, 58, 255, 256, 65535, 65536, i64::MAX, i64::MIN].map(Value::from));
    edges.extend(
        ["", "0.0.0.0/0", "::/0", "10.0.0.0/33", "10.0.0.1/8", "::ffff:1.2.3.4", "fe80::1%eth0", "255.255.255.255", "10.0.0.1", "fd00::1"]
            .map(Value::from),
    );
    edges.extend(
        ["All", "TCP", "ICMPv6", "SSH", "Reject", "Revoke", "IPv6", "Near", "web", "shop", "n1", "Succeeded", "true"].map(Value::from),
    );
    edges.extend(["a".repeat(300), "ä{}\"; drop".into(), "\u{0}".into(), "x/y".into()].map(Value::from));
    edges
}

/// The value at a random place.
fn place<'a>(value: &'a mut Value, random: &mut Random) -> &'a mut Value {
    let inside = match value {
        Value::Array(elements) => elements.len(),
        Value::Object(fields) => fields.len(),
        _ => 0,
    };
    if inside == 0 || random.below(6) == 0 {
        return value;
    }
    let which = random.below(inside);
    match value {
        Value::Array(elements) => place(&mut elements[which], random),
        Value::Object(fields) => match fields.iter_mut().nth(which) {
            Some((_, field)) => place(field, random),
            None => unreachable!("there are that many"),
        },
        other => other,
    }
}

/// One change of a case; `other` is another case to take from.
pub fn mutate(case: &mut Vec<Value>, other: &[Value], random: &mut Random) {
    if case.is_empty() || random.below(8) == 0 {
        match (random.below(3), case.len()) {
            (0, n) if n > 1 => drop(case.remove(random.below(n))),
            (1, n) if n > 0 && n < 60 => case.push(random.of(case).clone()),
            _ if !other.is_empty() => case.push(random.of(other).clone()),
            _ => {}
        }
        return;
    }
    let which = random.below(case.len());
    let mut donor = if other.is_empty() { Value::Null } else { random.of(other).clone() };
    let target = place(&mut case[which], random);
    match (random.below(6), &mut *target) {
        (0, Value::Object(fields)) if !fields.is_empty() => {
            let name = fields.keys().nth(random.below(fields.len())).cloned().unwrap_or_default();
            fields.remove(&name);
        }
        (1, Value::Object(fields)) if !fields.is_empty() => {
            // A field under another field's name, or under a new one.
            let names: Vec<String> = fields.keys().cloned().chain(["novelty".into()]).collect();
            let (from, to) = (random.of(&names).clone(), random.of(&names).clone());
            let value = fields.get(&from).cloned().unwrap_or(Value::Null);
            fields.insert(to, value);
        }
        (0, Value::Array(elements)) if !elements.is_empty() => drop(elements.remove(random.below(elements.len()))),
        (1, Value::Array(elements)) if !elements.is_empty() && elements.len() < 300 => {
            let copies = 1 + random.below(20);
            let element = random.of(elements).clone();
            elements.extend(std::iter::repeat_n(element, copies));
        }
        (2, Value::Number(number)) => *target = json!(number.as_i64().unwrap_or_default().wrapping_add(random.below(3) as i64 - 1)),
        (3, _) => *target = place(&mut donor, random).clone(),
        (4, _) => *target = json!([target.clone()]),
        _ => *target = random.of(&edges()).clone(),
    }
}
