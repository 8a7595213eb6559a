// second-reader decrypts what Holdfast sealed. It is written from docs/FORMAT.md, chapter "Encryption", and shares
// nothing with Holdfast but that text: what it reads, anybody can.
//
//	second-reader object   KEYS -layout FILE -sealed FILE [-range FROM:TO]   plaintext of an object with a layout
//	second-reader document KEYS -key OBJECTKEY -sealed FILE                  plaintext of a sealed document
//	second-reader vectors  FILE                                              recomputes the test vectors
//
// KEYS is -plan FILE or -recovery FILE (an age identity), and -wrapped LOCATION=FILE for each wrapped key.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "refused:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) == 0 {
		return errors.New("usage: second-reader object|document|vectors …")
	}
	switch arguments[0] {
	case "object":
		return object(arguments[1:])
	case "document":
		return document(arguments[1:])
	case "vectors":
		if len(arguments) != 2 {
			return errors.New("usage: second-reader vectors FILE")
		}
		return vectors(arguments[1])
	}
	return fmt.Errorf("unknown command %q", arguments[0])
}

// keyFlags are the flags that say where data keys come from.
type keyFlags struct {
	plan, recovery string
	wrapped        []string
}

func (f *keyFlags) register(set *flag.FlagSet) {
	set.StringVar(&f.plan, "plan", "", "file with the plan's key")
	set.StringVar(&f.recovery, "recovery", "", "file with the recovery key")
	set.Func("wrapped", "LOCATION=FILE of a wrapped key", func(value string) error {
		f.wrapped = append(f.wrapped, value)
		return nil
	})
}

// keys unwraps all wrapped keys; they are known by the last part of their location.
func (f *keyFlags) keys() (map[string][]byte, error) {
	if (f.plan == "") == (f.recovery == "") {
		return nil, errors.New("give either -plan or -recovery")
	}
	identity, err := readIdentity(f.plan + f.recovery)
	if err != nil {
		return nil, err
	}
	keys := make(map[string][]byte)
	for _, value := range f.wrapped {
		location, file, found := strings.Cut(value, "=")
		if !found {
			return nil, fmt.Errorf("-wrapped %q is not LOCATION=FILE", value)
		}
		bytes, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		key, err := unwrap(bytes, location, identity, f.plan != "")
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		keys[location[strings.LastIndexByte(location, '/')+1:]] = key
	}
	return keys, nil
}

func object(arguments []string) error {
	var flags keyFlags
	set := flag.NewFlagSet("object", flag.ContinueOnError)
	flags.register(set)
	layoutFile := set.String("layout", "", "file with the layout")
	sealedFile := set.String("sealed", "", "the object as stored")
	span := set.String("range", "", "FROM:TO in the plaintext")
	if err := set.Parse(arguments); err != nil {
		return err
	}
	keys, err := flags.keys()
	if err != nil {
		return err
	}
	text, err := os.ReadFile(*layoutFile)
	if err != nil {
		return err
	}
	var layout layout
	if err := json.Unmarshal(text, &layout); err != nil {
		return err
	}
	if err := layout.check(); err != nil {
		return err
	}
	from, to := uint64(0), layout.plain()
	if *span != "" {
		if from, to, err = parseRange(*span); err != nil {
			return err
		}
	}
	sealed, err := os.Open(*sealedFile)
	if err != nil {
		return err
	}
	defer sealed.Close()
	stat, err := sealed.Stat()
	if err != nil {
		return err
	}
	if uint64(stat.Size()) != layout.sealed() {
		return fmt.Errorf("the object has %d bytes, its layout says %d", stat.Size(), layout.sealed())
	}
	out := bufio.NewWriter(os.Stdout)
	if err := layout.open(keys, sealed, from, to, out); err != nil {
		return err
	}
	return out.Flush()
}

func parseRange(text string) (from, to uint64, err error) {
	first, second, _ := strings.Cut(text, ":")
	if from, err = strconv.ParseUint(first, 10, 64); err != nil {
		return 0, 0, err
	}
	to, err = strconv.ParseUint(second, 10, 64)
	return from, to, err
}

func document(arguments []string) error {
	var flags keyFlags
	set := flag.NewFlagSet("document", flag.ContinueOnError)
	flags.register(set)
	key := set.String("key", "", "full key of the object on the target")
	sealedFile := set.String("sealed", "", "the object as stored")
	if err := set.Parse(arguments); err != nil {
		return err
	}
	keys, err := flags.keys()
	if err != nil {
		return err
	}
	sealed, err := os.ReadFile(*sealedFile)
	if err != nil {
		return err
	}
	plain, err := openDocument(*key, sealed, keys)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(plain)
	return err
}
