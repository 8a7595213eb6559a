package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

// slice is an entry of a layout.
type slice struct {
	Key    string `json:"key"`
	Region string `json:"region"`
	First  uint64 `json:"first"`
	Plain  uint64 `json:"plain"`
	Ends   bool   `json:"ends"`
}

func (s slice) segments() uint64 { return s.Plain/segmentSize + min(s.Plain%segmentSize, 1) }
func (s slice) sealed() uint64   { return s.Plain + s.segments()*tagSize }

type layout []slice

// check refuses what describes no object.
func (l layout) check() error {
	if len(l) > 20000 {
		return errors.New("the layout has too many slices")
	}
	var sealed uint64
	for at, s := range l {
		switch {
		case s.Plain == 0:
			return fmt.Errorf("slice %d is empty", at)
		case !s.Ends && s.Plain%segmentSize != 0:
			return fmt.Errorf("slice %d ends inside of a segment", at)
		case s.segments() > 1<<36 || s.First > 1<<36-s.segments():
			return fmt.Errorf("slice %d has too many segments", at)
		}
		if sealed += s.sealed(); sealed >= 1<<53 {
			return errors.New("the object is too large")
		}
	}
	return nil
}

func (l layout) plain() (sum uint64) {
	for _, s := range l {
		sum += s.Plain
	}
	return sum
}

func (l layout) sealed() (sum uint64) {
	for _, s := range l {
		sum += s.sealed()
	}
	return sum
}

// open writes the plaintext from byte from to byte to, and reads only the segments that hold it.
func (l layout) open(keys map[string][]byte, sealed io.ReaderAt, from, to uint64, out io.Writer) error {
	if from > to || to > l.plain() {
		return fmt.Errorf("the range %d:%d is not inside the object", from, to)
	}
	// All keys first, so that nothing is written when one is missing.
	regions := make([]*region, len(l))
	for at, s := range l {
		dataKey, found := keys[s.Key]
		if !found {
			return fmt.Errorf("there is no data key %q", s.Key)
		}
		id, err := hex.DecodeString(s.Region)
		if err != nil || len(id) != 16 {
			return fmt.Errorf("%q is no region id", s.Region)
		}
		if regions[at], err = newRegion(dataKey, id, ""); err != nil {
			return err
		}
	}
	var plainAt, sealedAt uint64
	for at, s := range l {
		for number := range s.segments() {
			size := min(s.Plain-number*segmentSize, segmentSize)
			if plainAt < to && from < plainAt+size {
				buffer := make([]byte, size+tagSize)
				if _, err := sealed.ReadAt(buffer, int64(sealedAt)); err != nil {
					return err
				}
				last := s.Ends && number+1 == s.segments()
				plain, err := regions[at].open(s.First+number, last, buffer)
				if err != nil {
					return fmt.Errorf("at byte %d: %w", plainAt, err)
				}
				begin := max(from, plainAt) - plainAt
				end := min(to, plainAt+size) - plainAt
				if _, err := out.Write(plain[begin:end]); err != nil {
					return err
				}
			}
			plainAt += size
			sealedAt += size + tagSize
		}
	}
	return nil
}
