package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"filippo.io/age"
)

// hexBytes are written as hexadecimal digits.
type hexBytes []byte

func (h *hexBytes) UnmarshalJSON(text []byte) (err error) {
	*h, err = hex.DecodeString(strings.Trim(string(text), `"`))
	return err
}

// check counts what was compared, so that a vector which is missing does not pass unseen.
type check struct {
	done int
	err  error
}

func (c *check) same(what string, found, expected []byte) {
	c.done++
	if c.err == nil && (len(expected) == 0 || !bytes.Equal(found, expected)) {
		c.err = fmt.Errorf("%s is %x, the vectors say %x", what, found, expected)
	}
}

func (c *check) try(what string, err error) {
	if c.err == nil && err != nil {
		c.err = fmt.Errorf("%s: %w", what, err)
	}
}

type vectorFile struct {
	Region struct {
		DataKey, Region, Info, Key hexBytes
		Context                    string
	}
	Segment struct {
		Index                     uint64
		Last                      bool
		Nonce, Aad, Plain, Sealed hexBytes
	}
	Stream struct {
		PlainLength                                      int
		PlainSha256, SealedSha256, FirstTag, LastSegment hexBytes
	}
	Object struct {
		Keys                      map[string]hexBytes
		Layout                    layout
		PlainSha256, SealedSha256 hexBytes
		Range                     struct {
			Plain   [2]uint64
			Content hexBytes
		}
	}
	Document struct {
		DataKey, Region, Info, Key, Plain, Sealed hexBytes
		KeyId, Context                            string
	}
	EmptyDocument struct {
		Sealed  hexBytes
		Context string
	}
	Wrapped struct {
		PlanKey, PlanRecipient, RecoveryKey, RecoveryRecipient, Location, Line string
		DataKey, ProofKey, ProofMessage, Proof, File                           hexBytes
	}
}

func vectors(name string) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	var v vectorFile
	if err := json.Unmarshal(text, &v); err != nil {
		return err
	}
	var c check
	segments(&c, &v)
	documents(&c, &v)
	wrapped(&c, &v)
	if c.err == nil {
		fmt.Println(c.done, "values as the vectors say")
	}
	return c.err
}

// sealAll seals a stream of bytes as one region: the reader's other direction, for the vectors only.
func sealAll(r *region, plain []byte) (sealed []byte) {
	for index := uint64(0); ; index++ {
		size := min(len(plain), segmentSize)
		last := size == len(plain)
		sealed = r.aead.Seal(sealed, nonce(index, last), plain[:size], r.associated(index, last))
		if last {
			return sealed
		}
		plain = plain[size:]
	}
}

func segments(c *check, v *vectorFile) {
	key, err := regionKey(v.Region.DataKey, v.Region.Region, v.Region.Context)
	c.try("region key", err)
	c.same("region key", key, v.Region.Key)
	c.same("info", []byte(regionInfo+v.Region.Context), v.Region.Info)
	r, err := newRegion(v.Region.DataKey, v.Region.Region, "")
	c.try("region", err)
	s := v.Segment
	c.same("nonce", nonce(s.Index, s.Last), s.Nonce)
	c.same("associated data", r.associated(s.Index, s.Last), s.Aad)
	plain, err := r.open(s.Index, s.Last, s.Sealed)
	c.try("segment", err)
	c.same("segment", plain, s.Plain)

	stream := make([]byte, v.Stream.PlainLength)
	for i := range stream {
		stream[i] = byte(i % 251)
	}
	c.sum("stream", stream, v.Stream.PlainSha256)
	sealed := sealAll(r, stream)
	c.sum("sealed stream", sealed, v.Stream.SealedSha256)
	c.same("first tag", sealed[segmentSize:segmentSize+tagSize], v.Stream.FirstTag)
	last := sealed[segmentSize+tagSize:]
	c.same("last segment", last, v.Stream.LastSegment)

	// The object: last segment of the stream, a region of another key, first segment of the stream.
	c.try("layout", v.Object.Layout.check())
	id, err := hex.DecodeString(v.Object.Layout[1].Region)
	c.try("second region", err)
	second, err := newRegion(v.Object.Keys["b-2"], id, "")
	c.try("second region", err)
	object := append(append(bytes.Clone(last), sealAll(second, []byte("hello"))...), sealed[:segmentSize+tagSize]...)
	c.sum("sealed object", object, v.Object.SealedSha256)
	keys := make(map[string][]byte)
	for name, key := range v.Object.Keys {
		keys[name] = key
	}
	var opened, part bytes.Buffer
	l := v.Object.Layout
	c.try("object", l.open(keys, bytes.NewReader(object), 0, l.plain(), &opened))
	c.sum("object", opened.Bytes(), v.Object.PlainSha256)
	span := v.Object.Range.Plain
	c.try("range", l.open(keys, bytes.NewReader(object), span[0], span[1], &part))
	c.same("range", part.Bytes(), v.Object.Range.Content)
}

func (c *check) sum(what string, found, expected []byte) {
	sum := sha256.Sum256(found)
	c.same("SHA-256 of "+what, sum[:], expected)
}

func documents(c *check, v *vectorFile) {
	d := v.Document
	key, err := regionKey(d.DataKey, d.Region, d.Context)
	c.try("document key", err)
	c.same("document key", key, d.Key)
	c.same("document info", []byte(regionInfo+d.Context), d.Info)
	keys := map[string][]byte{d.KeyId: d.DataKey}
	plain, err := openDocument(d.Context, d.Sealed, keys)
	c.try("document", err)
	c.same("document", plain, d.Plain)
	plain, err = openDocument(v.EmptyDocument.Context, v.EmptyDocument.Sealed, keys)
	c.try("empty document", err)
	if len(plain) != 0 {
		c.try("empty document", fmt.Errorf("has %d bytes", len(plain)))
	}
}

func wrapped(c *check, v *vectorFile) {
	w := v.Wrapped
	for _, pair := range [][2]string{{w.PlanKey, w.PlanRecipient}, {w.RecoveryKey, w.RecoveryRecipient}} {
		identity, err := age.ParseX25519Identity(pair[0])
		c.try("identity", err)
		if err != nil {
			return
		}
		c.same("recipient", []byte(identity.Recipient().String()), []byte(pair[1]))
		key, err := unwrap(w.File, w.Location, identity, pair[0] == w.PlanKey)
		c.try("unwrap", err)
		c.same("data key", key, w.DataKey)
	}
	key, err := proofKey(w.PlanKey)
	c.try("proof key", err)
	c.same("proof key", key, w.ProofKey)
	c.same("proof message", proofMessage(w.Location, w.DataKey), w.ProofMessage)
	proof, err := makeProof(w.PlanKey, w.Location, w.DataKey)
	c.try("proof", err)
	c.same("proof", proof, w.Proof)
	line := fmt.Sprintf("{\"format\":1,\"for\":%q,\"key\":\"%x\",\"proof\":\"%x\"}\n", w.Location, []byte(w.DataKey), proof)
	c.same("line", []byte(line), []byte(w.Line))
}
