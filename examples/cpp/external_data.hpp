// Where an ONNX file keeps its weights, read from the protobuf before a runtime opens it. Knows no runtime.
//
// ONNX Runtime below 1.24 follows a location out of the model's folder, so a hostile file could read any other, and takes
// the location */_ORT_MEM_ADDR_/* to mean that the offset is an address in memory.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace external_data {

namespace detail {

enum class Message { none, model, training, graph, function, node, attribute, sparse, tensor, entry };

// Return what message a field leads to, by onnx.proto's numbers: none where there can be no tensor in it.
inline Message lead(Message message, std::uint64_t field) {
    struct Lead {
        Message message;
        std::uint64_t field;
        Message to;
    };
    using M = Message;
    constexpr Lead leads[] = {
        {M::model, 7, M::graph},       {M::model, 20, M::training},  {M::model, 25, M::function},
        {M::training, 1, M::graph},    {M::training, 2, M::graph},   {M::graph, 1, M::node},
        {M::graph, 5, M::tensor},      {M::graph, 15, M::sparse},    {M::function, 7, M::node},
        {M::function, 11, M::attribute}, {M::node, 5, M::attribute}, {M::attribute, 5, M::tensor},
        {M::attribute, 6, M::graph},   {M::attribute, 10, M::tensor}, {M::attribute, 11, M::graph},
        {M::attribute, 22, M::sparse}, {M::attribute, 23, M::sparse}, {M::sparse, 1, M::tensor},
        {M::sparse, 2, M::tensor},     {M::tensor, 13, M::entry}};
    for (const Lead& one : leads) {
        if (one.message == message && one.field == field) {
            return one.to;
        }
    }
    return Message::none;
}

// Say whether protobuf would merge a field, or take the last, where it comes twice in a message.
inline bool comes_once(Message message, std::uint64_t field) {
    const bool is_place = message == Message::entry && field <= 2;
    const bool is_pair = message == Message::training || message == Message::sparse;
    return is_place || (message == Message::model && field == 7) || (is_pair && field <= 2) ||
           (message == Message::attribute && (field == 5 || field == 6));
}

// A node matches text by a pattern, which RE2 writes to the terminal as it is where it does not parse.
struct MatchesText : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Where a tensor's numbers lie: the entries of its external_data, by key.
struct Place {
    std::map<std::string, std::string> entries;
    bool is_plain = true;  // no entry twice, and none but onnx.proto's
};

// Collects the places of a file's external weights; skips what cannot lead to one, weights above all.
class Walk {
public:
    explicit Walk(const std::filesystem::path& path) : file_(path, std::ios::binary) {
        message(Message::model, std::filesystem::file_size(path), 0, nullptr);
    }

    std::vector<Place> places;

private:
    [[noreturn]] static void fail() { throw std::runtime_error("no protobuf"); }

    // place: of the tensor that an entry belongs to.
    void message(Message kind, std::uint64_t end, int depth, Place* place) {
        if (depth > 64) {
            fail();
        }
        std::string key, value;
        std::set<std::uint64_t> seen;
        Place own;
        while (at_ < end) {
            const std::uint64_t tag = varint(), wire = tag & 7;
            if (tag < 8 || tag >> 32 != 0) {  // protobuf cuts a tag to 32 bits, and would see another field
                fail();
            }
            if (wire == 0) {
                varint();
            } else if (wire == 1 || wire == 5) {
                skip_to(at_ + (wire == 1 ? 8 : 4));
            } else if (wire == 2) {
                const std::uint64_t size = varint(), field = tag >> 3;
                if (at_ > end || size > end - at_ || (comes_once(kind, field) && !seen.insert(field).second)) {
                    fail();
                }
                const Message to = lead(kind, field);
                if (to != Message::none) {
                    message(to, at_ + size, depth + 1, &own);
                } else if (kind == Message::entry && field <= 2) {
                    (field == 1 ? key : value) = text(size);
                } else if (kind == Message::node && field == 4 && size < 16) {
                    const std::string op_type = text(size);
                    if (op_type == "RegexFullMatch" || op_type == "Tokenizer") {
                        throw MatchesText(op_type);
                    }
                } else {
                    skip_to(at_ + size);
                }
            } else {
                fail();
            }
        }
        if (at_ != end) {
            fail();
        }
        if (kind == Message::entry) {
            const bool is_known = key == "location" || key == "offset" || key == "length" || key == "checksum";
            place->is_plain = place->entries.emplace(key, value).second && is_known && place->is_plain;
        } else if (!own.entries.empty()) {
            places.push_back(own);
        }
    }

    std::uint64_t varint() {
        std::uint64_t value = 0;
        for (int shift = 0; shift < 70; shift += 7) {
            const int byte = file_.get();
            if (byte < 0) {
                fail();
            }
            ++at_;
            value |= shift < 64 ? static_cast<std::uint64_t>(byte & 0x7F) << shift : 0;
            if (byte < 0x80) {
                return value;
            }
        }
        fail();
    }

    std::string text(std::uint64_t size) {
        if (size > 65536) {  // no path is so long
            fail();
        }
        std::string found(static_cast<std::size_t>(size), '\0');
        if (!file_.read(found.data(), static_cast<std::streamsize>(size))) {
            fail();
        }
        at_ += size;
        return found;
    }

    void skip_to(std::uint64_t at) {
        at_ = at;
        file_.seekg(static_cast<std::streamoff>(at));
    }

    std::ifstream file_;
    std::uint64_t at_ = 0;
};

// Say whether a location is a plain relative path on every system: no drive, stream, URL or tag of a runtime.
inline bool is_plain(const std::string& location) {
    for (const char c : location) {
        if ((c >= 0 && c < ' ') || c == 127 || std::strchr("\\:*?\"<>|", c) != nullptr) {
            return false;
        }
    }
    std::istringstream parts(location);
    for (std::string part; std::getline(parts, part, '/');) {
        // Windows drops dots and spaces at the end of a name
        if (part != "." && !part.empty() && (part.back() == '.' || part.back() == ' ')) {
            return false;
        }
    }
    return !location.empty() && location[0] != '/';
}

inline bool is_inside(const std::filesystem::path& folder, const std::string& location) {
    if (!is_plain(location)) {
        return false;
    }
    const std::filesystem::path path = std::filesystem::u8path(location);
    std::error_code problem;  // such as links that lead to each other
    const auto from_folder = std::filesystem::weakly_canonical(folder / path, problem).lexically_relative(folder);
    return !problem && !from_folder.empty() && *from_folder.begin() != "..";
}

// Return the number that a value says, or nothing for whatever is no plain number below 10^19.
inline std::optional<std::uint64_t> number(const std::string& text) {
    if (text.empty() || text.size() > 19 || text.find_first_not_of("0123456789") != std::string::npos) {
        return std::nullopt;
    }
    return std::stoull(text);
}

// What a file says, cut and as ASCII without control characters.
inline std::string shown(const std::string& text) {
    std::string cut = text.substr(0, 200);
    for (char& c : cut) {
        c = c < ' ' || c > '~' ? '?' : c;
    }
    return "'" + cut + "'";
}

inline std::string trouble_with(const Place& place, const std::filesystem::path& folder) {
    namespace fs = std::filesystem;
    const auto said = [&place](const char* key, const char* missing) {
        const auto found = place.entries.find(key);
        return found == place.entries.end() ? std::string(missing) : found->second;
    };
    if (!place.is_plain || place.entries.count("location") == 0) {
        return "weights that do not say plainly where they are";
    }
    const std::string location = said("location", "");
    if (!is_inside(folder, location)) {
        return "weights outside the model's folder, in " + shown(location);
    }
    const fs::path target = folder / fs::u8path(location);
    if (fs::exists(target) && !fs::is_regular_file(target)) {  // a pipe would have us wait for ever
        return "weights in " + shown(location) + ", which is not a file";
    }
    const auto offset = number(said("offset", "0")), length = number(said("length", "0"));
    if (!offset || !length) {
        return "weights whose length or offset is not an integer from 0";
    }
    const std::uint64_t size = fs::exists(target) ? fs::file_size(target) : UINT64_MAX;
    if (*offset > size || *length > size - *offset) {
        return "weights that go beyond the end of " + shown(location);
    }
    return "";
}

}  // namespace detail

// Return what is wrong with an ONNX file's weights, as the end of a sentence with "has"; nothing where they lie inside
// the file or its folder, or where there is no file. What it says of the file is ASCII without control characters.
inline std::string trouble(const std::string& path) {
    namespace fs = std::filesystem;
    try {
        if (!fs::exists(path)) {
            return "";
        }
        const fs::path folder = fs::canonical(fs::absolute(path).parent_path());
        for (const detail::Place& place : detail::Walk(path).places) {
            const std::string found = detail::trouble_with(place, folder);
            if (!found.empty()) {
                return found;
            }
        }
        return "";
    } catch (const detail::MatchesText& found) {
        return std::string("the operator ") + found.what() + ", which matches text, as no image model needs";
    } catch (const std::exception&) {  // no protobuf, a folder, a name that this system cannot have
        return "no readable protobuf";
    }
}

}  // namespace external_data
