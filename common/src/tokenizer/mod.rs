//! Text to token ids and back, without ever splitting a character.
