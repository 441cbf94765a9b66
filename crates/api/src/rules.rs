//! What the API server checks beyond types and bounds: CEL rules, each with a message that names the field and the fix.
//!
//! The server treats a stored null as absent here; refusing it is the admission policy's part. All rules of one object together are
//! bounded by the server's cost estimate, which multiplies by every list's `maxItems` and every string's `maxLength`.

use kube::core::{Message, Rule};

/// TCP, UDP and SCTP as written: they alone have ports. (A CEL list of names and numbers needs `dyn`.)
const WITH_PORTS: &str = "[dyn('TCP'), dyn('UDP'), dyn('SCTP'), dyn(6), dyn(17), dyn(132)]";
/// ICMP of IPv4 as written.
const ICMP: &str = "[dyn('ICMP'), dyn(1)]";
/// ICMP of IPv6 as written.
const ICMPV6: &str = "[dyn('ICMPv6'), dyn(58)]";
/// Names as written in `protocol`.
const PROTOCOLS: &str = "['TCP', 'UDP', 'SCTP', 'ICMP', 'ICMPv6', 'All']";
/// What an object of these kinds can be called.
const NAME: &str = "^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$";
/// What a namespace can be called.
const NAMESPACE: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

/// A rule with a fixed message.
fn fixed(rule: impl Into<String>, message: &str) -> Rule {
    Rule::new(rule).message(message)
}

/// A rule whose message is a CEL expression, so that it can quote what was written.
fn quoting(rule: impl Into<String>, message: impl Into<String>) -> Rule {
    Rule::new(rule).message(Message::Expression(message.into()))
}

fn at(path: &str, mut rule: Rule) -> Rule {
    rule.field_path = Some(path.into());
    rule
}

/// The name becomes a label's value, which has at most 63 characters.
pub(crate) fn name_fits_a_label() -> Rule {
    fixed(
        "self.metadata.name.size() <= 63",
        "metadata.name is too long: it becomes the value of a label, so choose a name of at most 63 characters",
    )
}

// Rules of a group.

/// Neither `type` nor `protocol`.
pub(crate) fn says_which_traffic() -> Rule {
    fixed(
        "has(self.type) || has(self.protocol)",
        "neither type nor protocol is written: give one, type (a preset such as HTTPS) or protocol (TCP, UDP, SCTP, ICMP, ICMPv6, All, or a number from 0 to 255)",
    )
}

/// `type` excludes whatever it stands for (S15).
pub(crate) fn preset_stands_alone() -> Rule {
    let fields = ["protocol", "port", "endPort", "icmpType", "icmpCode"];
    let any = fields.map(|field| format!("has(self.{field})")).join(" || ");
    let which = fields.map(|field| format!("(has(self.{field}) ? ', {field}' : '')")).join(" + ");
    at(
        ".type",
        quoting(
            format!("!has(self.type) || !({any})"),
            format!(
                "'type ' + self.type + ' already stands for a protocol and its port: remove ' + ({which}).substring(2) + ' from this rule, or write protocol and ports in place of type'"
            ),
        ),
    )
}

/// Ports belong to TCP, UDP and SCTP (S12–S14). An unknown name is refused where it stands, not here once more.
pub(crate) fn ports_fit_the_protocol() -> Rule {
    at(
        ".port",
        quoting(
            format!(
                "!(has(self.port) || has(self.endPort)) || !has(self.protocol) || self.protocol in {WITH_PORTS} || (type(self.protocol) == string && !(self.protocol in {PROTOCOLS}))"
            ),
            format!(
                "self.protocol == 'All' ? 'port and endPort do not go with protocol All, which is every port of every protocol: remove them, or write TCP, UDP or SCTP' : \
         self.protocol in {ICMP} || self.protocol in {ICMPV6} ? 'port and endPort do not go with ICMP: remove them, or write icmpType and icmpCode' : \
         'port and endPort go with TCP, UDP and SCTP only: remove them, or write one of these protocols'"
            ),
        ),
    )
}

/// A range starts somewhere (S12).
pub(crate) fn end_port_needs_port() -> Rule {
    at(".endPort", fixed("!has(self.endPort) || has(self.port)", "endPort needs port, the first port of the range: add port"))
}

/// A range does not run backwards (S12).
pub(crate) fn end_port_not_below_port() -> Rule {
    at(
        ".endPort",
        fixed(
            "!has(self.endPort) || !has(self.port) || self.endPort >= self.port",
            "endPort is below port: the range runs from port up to endPort, both included, so swap them or correct one",
        ),
    )
}

/// ICMP fields belong to ICMP and ICMPv6 (S13, S14).
pub(crate) fn icmp_fields_fit_the_protocol() -> Rule {
    at(
        ".icmpType",
        fixed(
            format!(
                "!(has(self.icmpType) || has(self.icmpCode)) || !has(self.protocol) || self.protocol in {ICMP} || self.protocol in {ICMPV6} || (type(self.protocol) == string && !(self.protocol in {PROTOCOLS}))"
            ),
            "icmpType and icmpCode go with ICMP and ICMPv6 only: remove them, or write protocol ICMP or ICMPv6",
        ),
    )
}

/// A code means nothing without its type (S13).
pub(crate) fn icmp_code_needs_type() -> Rule {
    at(
        ".icmpCode",
        fixed("!has(self.icmpCode) || has(self.icmpType)", "icmpCode needs icmpType: add icmpType, or remove icmpCode for every code"),
    )
}

/// A CIDR of the family that the ICMP of the rule does not have could never match (S16). A colon tells the family: dots are legal in IPv6.
pub(crate) fn icmp_is_for_ipv4(peers: &str) -> Rule {
    at(
        &format!(".{peers}"),
        fixed(
            format!(
                "!((has(self.protocol) && self.protocol in {ICMP}) || (has(self.type) && self.type == 'AllICMP')) || !self.{peers}.exists(p, has(p.cidr) && p.cidr.contains(':'))"
            ),
            "ICMP is for IPv4 and a cidr here is IPv6, which it could never match: move that cidr to a rule with protocol ICMPv6 (or type AllICMPv6)",
        ),
    )
}

/// The same for the other family.
pub(crate) fn icmpv6_is_for_ipv6(peers: &str) -> Rule {
    at(
        &format!(".{peers}"),
        fixed(
            format!(
                "!((has(self.protocol) && self.protocol in {ICMPV6}) || (has(self.type) && self.type == 'AllICMPv6')) || !self.{peers}.exists(p, has(p.cidr) && !p.cidr.contains(':'))"
            ),
            "ICMPv6 is for IPv6 and a cidr here is IPv4, which it could never match: move that cidr to a rule with protocol ICMP (or type AllICMP)",
        ),
    )
}

/// A rule is for somebody.
pub(crate) fn names_a_peer() -> Rule {
    fixed(
        "self.size() > 0",
        "the list of peers is empty: add at least one entry with cidr, securityGroup, prefixList or self; to allow nobody, remove the rule",
    )
}

/// A name exactly so written, or an IANA number (S11). A rule of the field itself that asks for its type is too costly before Kubernetes 1.36:
/// the server reckons with strings of megabytes there.
pub(crate) fn protocol_is_known() -> Rule {
    at(
        ".protocol",
        quoting(
            format!(
                "!has(self.protocol) || (type(self.protocol) == string ? self.protocol in {PROTOCOLS} : (self.protocol >= 0 && self.protocol <= 255))"
            ),
            format!(
                "type(self.protocol) != string ? string(self.protocol) + ' is no protocol: IANA protocol numbers run from 0 to 255, so write one of them, or TCP, UDP, SCTP, ICMP, ICMPv6 or All' : \
         self.protocol.matches('^[0-9]+$') ? 'protocol is a string of digits: numbers are written without quotes, as in protocol: 6' : \
         {PROTOCOLS}.exists(p, p.lowerAscii() == self.protocol.lowerAscii()) ? 'this protocol is written ' + {PROTOCOLS}.filter(p, p.lowerAscii() == self.protocol.lowerAscii())[0] + ', exactly so: upper and lower case matter' : \
         'unknown protocol \"' + self.protocol + '\": write TCP, UDP, SCTP, ICMP, ICMPv6, All, or an IANA number from 0 to 255'"
            ),
        ),
    )
}

// Peers.

const PEER_KINDS: [&str; 4] = ["cidr", "securityGroup", "prefixList", "self"];

/// Exactly one kind of far end.
pub(crate) fn one_kind_of_peer() -> Rule {
    let count = PEER_KINDS.map(|kind| format!("(has(self.{kind}) ? 1 : 0)")).join(" + ");
    let which = PEER_KINDS.map(|kind| format!("(has(self.{kind}) ? ' and {kind}' : '')")).join(" + ");
    quoting(
        format!("{count} == 1"),
        format!(
            "{count} == 0 ? 'a peer is exactly one of cidr, securityGroup, prefixList and self, and here is none: add one' : 'a peer is exactly one of cidr, securityGroup, prefixList and self, and here are' + ({which}).substring(4) + ': make each an entry of its own'"
        ),
    )
}

/// `self: false` would read as "everybody but this group".
pub(crate) fn self_is_true() -> Rule {
    fixed("self", "self can only be true: write self: true for this group's own members, or remove it")
}

/// An address or a network (S16).
pub(crate) fn cidr_is_valid() -> Rule {
    let mapped = "^[0:]*:ffff:";
    let leading = "(^|[.])0[0-9]|/0[0-9]";
    quoting(
        "isCIDR(self) || isIP(self)",
        format!(
            "'cidr \"' + self + '\" ' + (self.contains('%') ? 'has a zone: zones mean nothing to other nodes, remove % and what follows' : \
         self.contains(':') && self.lowerAscii().matches('{mapped}') ? 'is an IPv4-mapped IPv6 address: write the IPv4 address or network itself' : \
         self.matches('{leading}') ? 'has leading zeros, which some programs read as octal: remove them' : \
         self.contains('/') && isIP(self.substring(0, self.indexOf('/'))) ? 'has no valid prefix length: write 0 to 32 for IPv4, 0 to 128 for IPv6' : \
         'is neither an address nor a network: write it like 10.20.0.0/16, 2001:db8::/32 or 203.0.113.7')"
        ),
    )
}

/// One missing digit must not open a group to the world.
pub(crate) fn zero_prefix_is_meant() -> Rule {
    quoting(
        "!isCIDR(self) || cidr(self).prefixLength() != 0 || cidr(self).ip().isUnspecified()",
        "'cidr ' + self + ' means every address, whatever stands before the /0. Which prefix was meant? Write its length, or ' + (self.contains(':') ? '::/0' : '0.0.0.0/0') + ' for everybody'",
    )
}

/// The name of another object. A name that no object can have would match nothing for ever.
pub(crate) fn object_name_is_valid() -> Rule {
    quoting(
        format!("self.matches('{NAME}')"),
        "self.size() == 0 ? 'name is empty: write the name of the object' : self.contains('/') ? 'name \"' + self + '\" has a slash: write the namespace in the field namespace beside name' : \
         'name \"' + self + '\" is no name that an object can have: lower-case letters, digits, \"-\" and \".\", letters and digits at both ends'",
    )
}

/// A namespace that is written is a namespace.
pub(crate) fn namespace_is_valid() -> Rule {
    quoting(
        format!("self.matches('{NAMESPACE}')"),
        "self.size() == 0 ? 'namespace is empty: write its name, or remove the field for the namespace of this group' : \
         'namespace \"' + self + '\" is no name that a namespace can have: lower-case letters, digits and \"-\", letters and digits at both ends'",
    )
}

/// S34 waits.
pub(crate) fn no_revoke_yet() -> Rule {
    fixed("self != 'Revoke'", "connections: Revoke is not supported yet: write Preserve, or remove the field")
}

// Prefix lists.

/// What the list weighs in quotas is what it may grow to.
pub(crate) fn entries_fit() -> Rule {
    at(
        ".entries",
        fixed(
            "!has(self.entries) || self.entries.size() <= self.maxEntries",
            "PrefixListMaxEntriesExceeded: more entries than maxEntries says: raise maxEntries (it is what the list weighs in the quotas of groups), or remove entries",
        ),
    )
}

/// Rules that name the list were written for a family.
pub(crate) fn family_stays() -> Rule {
    fixed("self == oldSelf", "addressFamily cannot be changed: make another PrefixList for the other family")
}

// Attachments.

/// A name that a group can have.
pub(crate) fn group_name_is_valid() -> Rule {
    quoting(
        format!("self.matches('{NAME}')"),
        "self.size() == 0 ? 'the name is empty: write the name of a SecurityGroup of this namespace, or remove the entry' : \
         self.contains('/') ? 'a name with a slash: an Attachment names groups of its own namespace only, by their plain names' : \
         'no group can have this name: lower-case letters, digits, \"-\" and \".\", letters and digits at both ends'",
    )
}

/// An attachment is to a group.
pub(crate) fn names_a_group() -> Rule {
    fixed(
        "self.size() > 0",
        "the list is empty: add at least one name of a SecurityGroup of this namespace; to attach nothing, delete the Attachment",
    )
}

/// Exactly one selector.
pub(crate) fn one_selector() -> [Rule; 2] {
    [
        fixed(
            "has(self.podSelector) || has(self.nodeSelector)",
            "no selector is written: add podSelector ({} selects all pods of the namespace)",
        ),
        fixed("!(has(self.podSelector) && has(self.nodeSelector))", "both podSelector and nodeSelector are written: keep exactly one"),
    ]
}

/// S40 waits.
pub(crate) fn no_node_selector_yet() -> Rule {
    at(".nodeSelector", fixed("!has(self.nodeSelector)", "nodeSelector is not supported yet: write podSelector"))
}

// Selectors.

/// Keys that labels can have.
pub(crate) fn label_key_is_valid() -> Rule {
    fixed("!format.qualifiedName().validate(self).hasValue()", "no label can have this key: write one like app or example.com/app")
}

/// Values that labels can have.
pub(crate) fn label_value_is_valid() -> Rule {
    fixed(
        "self.matches('^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$')",
        "no label can have this value: letters, digits, \"-\", \"_\" and \".\", letters and digits at both ends",
    )
}

/// The same for a list of them.
pub(crate) fn label_keys_are_valid() -> Rule {
    fixed(
        "!self.exists(k, format.qualifiedName().validate(k).hasValue())",
        "no label can have one of these keys: write keys like app or example.com/app",
    )
}

/// `In` and `NotIn` have values, `Exists` and `DoesNotExist` have none.
pub(crate) fn values_fit_the_operator() -> Rule {
    at(
        ".values",
        quoting(
            "!(self.operator in ['In', 'NotIn', 'Exists', 'DoesNotExist']) || (self.operator in ['In', 'NotIn']) == (has(self.values) && self.values.size() > 0)",
            "self.operator in ['In', 'NotIn'] ? 'operator ' + self.operator + ' needs at least one entry in values: add one' : 'operator ' + self.operator + ' looks at the key alone: remove values'",
        ),
    )
}
