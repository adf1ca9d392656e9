#!/usr/bin/env python3
"""Writes the text that the embedded model `tiny` is trained on: stories told by the rules below, and those of SmolLM2.

    make_tiny_text.py OUT.txt [--count N] [--stories FILE --repeat K]

Every story by rules is a function of its number: a hero, a thing, a place and a plot, each sentence in one of several
wordings. FILE is what the example `stories` of the crate smallmind wrote with SmolLM2-135M-Instruct (Apache-2.0); of it,
stories that go round in circles are left out, and the others come K times. The rules and their words are part of this
repository and under its licence.
"""
import argparse
import re
from pathlib import Path

END = "<|endoftext|>"
MASK = (1 << 64) - 1


class Dice:
    """SplitMix64: the same numbers everywhere and in every version."""

    def __init__(self, seed):
        # Mixed once, for seeds side by side would give the same numbers one place further.
        self.state = seed
        self.state = self.next()

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
        return z ^ z >> 31

    def pick(self, options):
        return options[self.next() % len(options)]


GIRLS = "Lily Mia Anna Lucy Sue Ella Rosie Nina Daisy Amy Emma Zoe Sara Kate Molly Ruby Grace Bella".split()
BOYS = "Tom Ben Max Tim Jack Leo Sam Finn Billy Fred Noah Jim Dan Peter Toby Oscar Henry Charlie".split()
CHILDREN = ["girl", "boy"]
ANIMALS = "cat dog bunny bear bird fox mouse frog duck pig horse turtle puppy kitten elephant monkey squirrel owl hedgehog lamb".split()
ADJECTIVES = "little happy small kind brave shy funny clever curious quiet young cheerful gentle playful".split()
LOOKS = "red blue big tiny shiny old soft yellow round pretty green golden new white special little".split()
THINGS = "ball hat book boat star kite shoe bell toy key cup drum balloon doll car bike feather shell lamp ring blanket train button basket scarf bag".split()
FOODS = ["cake", "apple", "cookie", "pie", "sandwich", "carrot", "banana", "pear", "bun", "pancake", "muffin"]
PLACES = ["in the park", "in the garden", "by the river", "in the forest", "on the beach", "near the pond", "on the hill",
          "in the yard", "in the barn", "by the lake", "on the farm", "behind the house"]
HELPERS = ["mom", "dad", "grandma", "grandpa", "sister", "brother", "friend", "teacher"]
HOBBIES = ["play", "run", "sing", "jump", "draw", "swim", "dance", "read", "climb", "explore", "paint", "dig", "build towers",
           "look at the stars", "pick flowers", "play games", "tell jokes", "ride on the swing"]
WEATHER = ["sunny", "warm", "windy", "cold", "bright", "rainy"]

STARTS = [
    "Once upon a time, there was $adj_a $kind named $N. $He {liked|loved} to $hobby.",
    "Once upon a time, there was $adj_a $kind named $N. $N {liked|loved} to $hobby {with $his friends|every day|$place}.",
    "Once upon a time, there was $adj_a $kind. $His name was $N. $He {liked|loved} to $hobby.",
    "Once upon a time, $adj_a $kind named $N lived {in a small house|in a little town|near the forest|by the sea|on a farm}.",
    "Once there was $adj_a $kind named $N. $He lived with $his {mom|dad|family|grandma} {in a small house|in a little town|near the forest}.",
    "One day, $adj_a $kind named $N went out to $hobby.",
    "$N was $adj_a $kind who {liked|loved} to $hobby $place.",
    "$N was $adj_a $kind. $He had {many friends|a kind family|a cozy home|a big smile}.",
    "It was a $weather day. $N the $kind wanted to $hobby $place.",
]

PLOTS = {
    "lost": [
        "{One day, |One morning, |}$N could not find $his $look $thing. {$He looked under the bed and behind the door.|$He looked in the kitchen and in the yard.|$He looked everywhere, but it was gone.}",
        "{\"Where is my $thing?\" $he {asked|cried}.|\"Oh no! My $thing is gone,\" said $N.} $N was very sad.",
        "$His $helper {heard $him and came|saw that $N was sad}. \"{Don't worry|Don't cry}, $N. {I will help you|Let's look together},\" said $his $helper.",
        "They {looked and looked|walked around|searched for a long time}. {At last|Then|Soon} they saw something $look $place. {It was the $thing!|\"Look! There it is!\" said $his $helper.}",
        "$N {was so happy|jumped up and down|smiled a big smile}. \"Thank you{ for helping me|, thank you|}!\" $he said and gave $his $helper a big hug.",
        "{From that day on, $N always took good care of $his $thing.|After that, $N always put $his $thing in a safe place.|That night, $N slept with the $thing next to $his bed.}",
    ],
    "share": [
        "{One day, |}$N had $look_a $thing. {It was $his favorite toy.|$He played with it all day.|$He loved it very much.}",
        "{A boy|A girl|A little $other|$His friend $F} came and asked, \"{Can I play with your $thing?|May I play too?}\" {But $N did not want to share.|\"No, it is mine!\" said $N.|$N held the $thing tight and shook $his head.}",
        "{The other one was sad and went away.|$F looked sad and walked away.|$F sat down and started to cry.} {Then $N played alone, but it was not fun.|$N felt bad. Playing alone was not fun.}",
        "$His $helper {said|told $him}, \"{It is nice to share|When you share, you have more fun|Sharing makes friends}.\" $N {thought about it|nodded|knew that it was true}.",
        "$N went to $F and said, \"{I am sorry.|Sorry that I did not share.} {Do you want to play with me?|Let's play together!}\"",
        "$F smiled. {They played with the $thing until the sun went down.|They took turns with the $thing and laughed a lot.|They played all day and had so much fun.} {$N and $F became best friends.|$N learned that sharing is fun.|$N was happy that $he had shared.}",
    ],
    "brave": [
        "{One day, |}$N and $his $helper {went for a walk|were} $place. {They saw a very tall tree.|There was a big slide.|There was a little bridge over the water.|They came to a dark cave.}",
        "\"{I am scared|I can't do it|It looks scary},\" said $N. {$His legs were shaking.|$He hid behind $his $helper.|$He wanted to go home.}",
        "\"{You can do it|You are very brave|I am right here with you},\" said $his $helper. \"{Take one small step|Just try once|Hold my hand}.\"",
        "$N took a deep breath. {$He took one step, and then one more.|$He closed $his eyes and tried.|Slowly, $he went on.} {And then $he did it!|It was not so bad!|Soon it was done!}",
        "\"I did it! I did it!\" {shouted|said|cried} $N. $His $helper {clapped and laughed|was very proud|gave $him a big hug}.",
        "{From that day on, $N was not afraid any more.|After that, $N was not scared of new things.|Now $N knew that $he could be brave.}",
    ],
    "friend": [
        "{But $N was lonely. $He had no one to play with.|$N wanted a new friend.}",
        "{One day, |One morning, }$he saw $other_a $place. {The $other was all alone, too.|The $other looked sad.} \"Hello! My name is $N. What is your name?\" asked $N.",
        "\"{I am $F|My name is $F},\" said the $other. \"{I am new here|I have no friends here|I don't know anyone}.\"",
        "\"{Do you want to play with me?|Let's be friends!|I can be your friend!}\" said $N. $F {was very happy|smiled|jumped with joy}. \"Yes, please!\"",
        "They played {with $look_a $thing|hide and seek|in the grass|games} {all day long|until it was dark|and laughed together}. {Then they shared $food_a.|They ate $food_a together.|}",
        "{From that day on, $N and $F played together every day.|$N was not lonely any more.|$N and $F were best friends for ever.}",
    ],
    "mess": [
        "{One day, |}$N {wanted to make $food_a|was playing in the kitchen|painted a picture at the table}. {$He was not careful.|$He ran too fast.|$He did not look.}",
        "{Crash!|Oh no!|Bang!} {A cup fell down and broke.|The milk fell on the floor.|The paint went all over the floor.} {There was a big mess!|What a mess!|}",
        "$N was {scared|afraid|worried}. {\"What will $helper_my say?\" $he thought.|$He wanted to hide.} But $he {went to $his $helper and said|told the truth. $He said}, \"{I made a mess. I am sorry.|It was me. I am so sorry.}\"",
        "$His $helper {was not angry|smiled|looked at $him and smiled}. \"{Thank you for telling me the truth|It is okay. It was an accident|I am glad you told me},\" said $his $helper. \"{Let's clean it up together|We can fix it}.\"",
        "They {cleaned the floor together|cleaned up|wiped and swept}. {Soon everything was clean again.|When they were done, the kitchen was clean.} {Then they ate $food_a.|}",
        "$N {felt good|was happy}. {$He knew that it is good to tell the truth.|$He learned to be careful and to tell the truth.|Next time, $he would be more careful.}",
    ],
    "gift": [
        "{Soon it was the birthday of $his $helper.|It was the birthday of $his $helper.} $N wanted to give $his $helper {a present|something special|a gift}.",
        "{But $N had no money.|\"What can I give?\" $N thought.} $He {thought and thought|thought for a long time}. Then $he had {an idea|a good idea}.",
        "$N went out and found {pretty flowers|a shiny stone|$look_a feather|a pretty shell} $place. {$He put it in a little box.|$He made a card, too.|$He also drew a picture.}",
        "\"Happy birthday!\" said $N{ and gave the present to $his $helper| with a big smile|}. $His $helper {opened it and smiled|looked at it and smiled}. \"{It is so pretty|This is the best present ever|I love it}! Thank you, $N!\"",
        "They {ate cake|had a big cake|sang a song and ate cake} {together|with all their friends}. {Everyone was happy.|It was a wonderful day.|}",
        "$N {was very happy|felt warm inside|was proud}. {$He knew that a gift from the heart is the best gift.|Giving was even more fun than getting.|}",
    ],
    "help": [
        "{One day, |}$N heard a {small voice|sad sound} $place. {\"Help! Help!\" it said.|Someone was crying.} $N {ran to look|went to see what it was}.",
        "It was a {little |small |}$other. {The $other was stuck in the mud.|The $other was stuck in a bush.|The $other had hurt its leg.|The $other was lost.} \"Please help me,\" said the $other.",
        "\"{Don't be afraid|I will help you},\" said $N. {But $N was too small to do it alone.|$N tried, but it was very hard.} So $he {called $his $helper|ran to get $his $helper}.",
        "Together, {they pulled and pulled|they worked very hard|$N and $his $helper helped the $other}. {At last|Soon} the $other was {free|safe}. \"{Thank you so much|Thank you}!\" said the $other. \"{You are very kind|You are my hero}.\"",
        "{The next day|Later}, the $other came back {with $food_a|with $look_a $thing|with a flower} for $N. {They sat down and talked.|They played together all day.|$N laughed and said thank you.}",
        "{$N was glad that $he had helped.|And they were friends for ever.|It feels good to help others.}",
    ],
    "weather": [
        "{One day, |}$N wanted to play outside. But {it rained and rained|there was a big storm|dark clouds came and it started to rain}. {\"I can't go outside,\" said $N sadly.|$N looked out of the window and was sad.}",
        "\"{Let's do something fun inside|I have an idea|We can have fun inside},\" said $his $helper. {They got {a big box|some blankets|paper and paint}.|$N looked up. \"What is it?\" $he asked.}",
        "They {made a little house out of blankets|painted pictures|made $look_a $thing out of paper|baked $food_a} {together|}. {$N laughed and laughed.|It was so much fun!|$N forgot about the rain.}",
        "{Then|After a while|Soon} the rain stopped and the sun came out. {There was a big rainbow in the sky.|There were puddles everywhere.} \"Look!\" {shouted|said} $N.",
        "They went outside and {jumped in the puddles|looked at the rainbow|played in the wet grass}. {Splash! Splash!|They got very wet, but they did not care.|}",
        "{\"I like rainy days,\" said $N.|It was the best day ever.|At night, $N went to bed with a smile.}",
    ],
    "learn": [
        "{One day, |}$N wanted to learn how to {ride a bike|swim|fly a kite|bake a cake|skate|whistle}. {$He tried, but it did not work.|$He tried, but it was too hard.|$He tried and fell down.}",
        "\"{I can't do it|This is too hard|I give up},\" said $N. {$He sat down and was sad.|$He wanted to cry.|}",
        "$His $helper {sat down next to $him|came over}. \"{Everyone falls at first|It takes time to learn|You have to try again}. {Try again|Do not give up},\" said $his $helper.",
        "So $N tried again. {And again. And again.|The first time it did not work. The second time it was better.|Every day, $he got a little better.}",
        "{Then one day|At last}, $N did it! \"Look at me!\" $he {shouted|cried}. $His $helper {clapped|smiled and clapped}. \"{I knew you could do it|Well done|I am so proud of you}!\"",
        "$N {was very proud|was so happy}. {$He learned that you must never give up.|If you try and try, you can do it.|}",
    ],
    "find": [
        "{One day, |}$he found $look_a $thing $place. {\"Wow! What is this?\" $he said.|It was so pretty!|$N had never seen one like it.}",
        "$N {picked it up|looked at it} and {wanted to keep it|took it home}. But then $he {saw someone crying|heard someone crying}. It was $F. \"{I lost my $thing|I can't find my $thing},\" said $F.",
        "$N looked at the $thing. {$He liked it very much.|$He wanted to keep it.} But $he knew that {it belonged to someone else|it was right to give it back}.",
        "\"{Is this your $thing?|Here is your $thing.} I found it $place,\" said $N. $F {stopped crying|smiled}. \"Yes! {Thank you|Thank you so much}!\"",
        "{$F was so happy that $F gave $N $food_a.|$F asked $N to play.|\"You are a good friend,\" said $F.} {They played with the $thing together.|They had fun all day.}",
        "{$N was happy, too.|$N felt good, because $he had done the right thing.|$N went home with a smile.}",
    ],
    "bed": [
        "{It was late.|The moon was in the sky.|One night, it was time for bed.} But $N could not sleep. {\"It is too dark,\" $he said.|$He heard a strange sound.|$He was not tired at all.}",
        "$N {went to $his $helper|called $his $helper}. \"I can't sleep,\" $he said. {\"Are you scared?\" asked $his $helper. $N nodded.|$His $helper gave $him a hug.}",
        "$His $helper {gave $him $look_a $thing|turned on a little lamp|gave $him some warm milk}. \"{This will keep you safe|Now you can sleep well|Close your eyes and think of something nice},\" said $his $helper.",
        "{Then $his $helper sang a soft song.|Then $his $helper read a story about $other_a.|They looked at the stars and counted them. One, two, three.} $N {felt warm and safe|smiled}.",
        "{Slowly, $N closed $his eyes.|Soon $N was very sleepy.|$N yawned.} \"Good night, $N,\" said $his $helper{ softly|}. {\"Good night,\" said $N.|But $N was already asleep.}",
        "{$N slept all night and had a sweet dream.|In the morning, the sun was shining and $N was happy.|}",
    ],
    "picnic": [
        "{One day, |}$N and $his $helper went {to have a picnic|for a picnic} $place. {They had a basket with $food_a and some juice.|They took $food_a and a big blanket.}",
        "They sat down {on the grass|on the blanket} and {started to eat|were about to eat}. {Then $other_a came.|Suddenly, they saw a $other.} The $other looked {hungry|at the food}.",
        "\"{Are you hungry?|Do you want some?}\" asked $N. The $other {nodded|came closer}. $N gave the $other {a piece of the food|some food|half of $his food}.",
        "The $other {ate it all|ate and was happy}. \"{Yum! Thank you|Thank you},\" said the $other. \"{Come, I will show you something|I know a special place}.\"",
        "They {walked a little|followed the $other}. There they saw {many flowers|a tree with red apples|a little waterfall|baby birds in a nest}. \"{Wow! It is so beautiful|How pretty},\" said $N.",
        "{It was a wonderful day.|On the way home, $N held the hand of $his $helper. \"That was fun,\" $he said.|$N and the $other became good friends.}",
    ],
}


def article(word):
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def expand(text, dice):
    """Takes one wording of each {a|b}, innermost first."""
    while "{" in text:
        text = re.sub(r"\{([^{}]*)\}", lambda m: dice.pick(m.group(1).split("|")), text, count=1)
    return text


def story(number):
    dice = Dice(number)
    kind = dice.pick(CHILDREN + CHILDREN + ANIMALS) if dice.next() % 2 else dice.pick(CHILDREN)
    girl = kind == "girl" or (kind != "boy" and dice.next() % 2 == 0)
    name = dice.pick(GIRLS if girl else BOYS)
    friend = dice.pick([n for n in GIRLS + BOYS if n != name])
    look, adjective, helper = dice.pick(LOOKS), dice.pick(ADJECTIVES), dice.pick(HELPERS)
    words = {
        "N": name, "F": friend, "kind": kind, "helper_my": f"my {helper}", "helper": helper,
        "He": "She" if girl else "He", "he": "she" if girl else "he", "him": "her" if girl else "him",
        "His": "Her" if girl else "His", "his": "her" if girl else "his",
        "adj_a": article(adjective), "look_a": article(look), "look": look, "thing": dice.pick(THINGS),
        "food_a": article(dice.pick(FOODS)), "place": dice.pick(PLACES), "hobby": dice.pick(HOBBIES),
        "weather": dice.pick(WEATHER), "other": dice.pick([a for a in ANIMALS if a != kind]),
    }
    words["other_a"] = article(words["other"])
    plot = PLOTS[dice.pick(sorted(PLOTS))]
    text = " ".join(expand(part, dice) for part in [dice.pick(STARTS), *plot])
    text = re.sub(r"\$([A-Za-z_]+)", lambda m: words[m.group(1)], text)
    text = re.sub(r" +", " ", text).strip()
    first, *rest = text.split("One day, ")
    text = first + ("One day, " if rest else "") + "".join(rest)
    # Sentences begin with a capital, also where an optional beginning was left out; what follows a question or a call
    # in quotes goes on.
    return re.sub(r"([.!?] )([a-z])", lambda m: m.group(1) + m.group(2).upper(), text)


def goes_round(text):
    """Whether a story repeats itself: a third of its runs of three words were there before."""
    words = re.findall(r"[a-z']+", text.lower())
    runs = list(zip(words, words[1:], words[2:]))
    return len(runs) < 30 or len(set(runs)) < 0.8 * len(runs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=40000)
    parser.add_argument("--stories", type=Path)
    parser.add_argument("--repeat", type=int, default=4)
    arguments = parser.parse_args()
    told = []
    if arguments.stories:
        told = [s.strip() for s in arguments.stories.read_text().split(END)]
        told = [s for s in told if s and not goes_round(s)]
    texts = [story(i) for i in range(arguments.count)]
    every = max(1, arguments.count // max(1, len(told) * arguments.repeat))
    with open(arguments.out, "w") as out:
        for i, text in enumerate(texts):
            out.write(f"{text}\n{END}\n")
            if told and i % every == 0 and i // every < len(told) * arguments.repeat:
                out.write(f"{told[i // every % len(told)]}\n{END}\n")
    print(f"{len(texts)} stories by rules, {len(told)} of the model's {arguments.repeat} times")


if __name__ == "__main__":
    main()
